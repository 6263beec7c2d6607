"""SQuAD's metrics, by its definitions, and its published files."""

import json

import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.lines import read_json_rows
from mat_ds.tasks.squad import exact, mean_over_questions, normalised, overlap


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Norman's conquest!", "normans conquest"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.A.", "usa"),
        ("the", ""),
        ("a-b", "ab"),
        ("Été — 10,5", "été — 105"),  # only ASCII punctuation goes, as in the script
    ],
)
def test_answers_are_normalised_as_in_the_official_script(answer, expected):
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("reference", "prediction", "em", "f1"),
    [
        ("Denver Broncos", "the denver broncos.", 1.0, 1.0),
        ("Denver Broncos", "Broncos", 0.0, 2 / 3),  # precision 1, recall 1/2
        ("in the year 1999", "1999 was the year", 0.0, 2 * (2 / 3) * (2 / 3) / (4 / 3)),
        ("to be or not to be", "to be to be", 0.0, 2 * 1 * (4 / 6) / (1 + 4 / 6)),  # words count as often as they are there
        ("gold", "silver", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "gold", 0.0, 0.0),
        ("gold", "", 0.0, 0.0),
    ],
)
def test_scores_of_an_answer(reference, prediction, em, f1):
    assert exact(reference, prediction) == em and overlap(reference, prediction) == pytest.approx(f1)


def test_the_best_reference_counts_and_questions_count_alike():
    references = [["sea", "the blue sea"], [""], ["sky"]]
    assert mean_over_questions(exact, references, ["blue sea", "", "sun"]) == pytest.approx(2 / 3)
    assert mean_over_questions(overlap, references, ["deep sea", "x", "sky"]) == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert (
        mean_over_questions(exact, [["the", "sea"]], [""]) == 0
    )  # a reference of no words counts only where there is no other


def published(**question):
    return {
        "version": "v2.0",
        "data": [
            {"title": "T", "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", "answers": [], **question}]}]}
        ],
    }


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_published_files_are_read_as_one_row_a_question(indent, turned, tmp_path):
    tree = published(is_impossible=True)
    tree["data"][0]["paragraphs"].append({"context": "d", "qas": [{"id": "2", "question": "r", "answers": [{"text": "d"}]}]})
    if turned:  # as version 1.1 is written
        tree = {"data": tree["data"], "version": "1.1"}
    (tmp_path / "train.json").write_text(json.dumps(tree, indent=indent))
    rows = list(read_json_rows(tmp_path / "train.json"))
    assert [where.rpartition(" ")[2] for where, _ in rows] == ["data[0].paragraphs[0].qas[0]", "data[0].paragraphs[1].qas[0]"]
    assert [(row["id"], row["title"], row["context"], row["question"]) for _, row in rows] == [
        ("1", "T", "c", "q"),
        ("2", "T", "d", "r"),
    ]


def test_damaged_published_files_are_named(tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(published())[:-3])
    with pytest.raises(UserError, match="is not JSON"):
        list(read_json_rows(file))
    tree = published()
    tree["data"][0]["paragraphs"].append("nothing")
    file.write_text(json.dumps(tree))
    (_, good), (where, bad) = read_json_rows(file)
    assert isinstance(good, dict) and bad.reason == "is not a JSON object" and "paragraphs[1]" in where


def test_json_lines_with_a_column_called_data_stay_json_lines(tmp_path):
    (tmp_path / "train.json").write_text('{"data": ["a"], "label": 1}\n{"data": ["b"], "label": 0}\n')
    assert [row["label"] for _, row in read_json_rows(tmp_path / "train.json")] == [1, 0]
