"""Bad rows are counted, named with file and line, and refused or left out as the options say; none hides another."""

import json

import pytest

from mat_ds.errors import UserError
from mat_ds.tasks.example import LONGEST_TEXT
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS

GOOD = {"sentence": "fine", "label": 1}
PAIR = {"sentence1": "a", "sentence2": "b"}


def lines(*rows):
    return "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode("utf-8", "surrogateescape")


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def cola(folder, *rows, validation=(GOOD,)):
    write(folder, "cola/train.jsonl", lines(*rows))
    write(folder, "cola/validation.jsonl", lines(*validation))


def load(spec, folder, **data):
    return load_task_data(spec, DataConfig(path=str(folder), **data))


def refused(spec, folder, **data):
    """Every problem as (place without folders, reason)."""
    with pytest.raises(UserError) as caught:
        load(spec, folder, **data)
    return [(problem.key.rsplit("/", 1)[-1], problem.reason) for problem in caught.value.problems]


# A row of CoLA, what is wrong with it, and its category in counts.
ROWS = [
    ("{", "is not JSON", "corrupt line"),
    ('{"sentence": "a\x01b", "label": 1}', "is not JSON: Invalid control character", "corrupt line"),
    ("[" * 100_000, "is not JSON", "corrupt line"),
    ('{"sentence": "a", "label": ' + "1" * 5000 + "}", "is not JSON", "corrupt line"),
    ("[1]", "is not a JSON object", "corrupt line"),
    ('{"sentence": "a\udcff", "label": 1}', "is not UTF-8", "not UTF-8"),
    ('{"sentence": "a\\ud800", "label": 1}', "half of a surrogate pair", "not UTF-8"),
    ({"label": 1}, "sentence is not a text", "missing text"),
    ({"sentence": None, "label": 1}, "sentence is not a text", "missing text"),
    ({"sentence": 7, "label": 1}, "sentence is not a text", "missing text"),
    ({"sentence": "", "label": 1}, "sentence is blank", "blank text"),
    ({"sentence": " \t\n\u2003", "label": 1}, "sentence is blank", "blank text"),
    ({"sentence": "x" * (LONGEST_TEXT + 1), "label": 1}, "more than 100,000", "long text"),
    *(
        ({"sentence": "a", "label": label}, "the label is none of 0 (unacceptable), 1 (acceptable)", "wrong label")
        for label in (2, -1, True, [1], {"a": 1}, None, "yes", "", 0.5, "0.5", float("nan"), float("inf"), 1e300, "9" * 5000)
    ),
    ({"sentence": "a"}, "the label is none of", "wrong label"),
]


@pytest.mark.parametrize("row, reason, kind", ROWS, ids=range(len(ROWS)))
def test_a_bad_row_is_refused_with_file_and_line_or_left_out_and_counted(row, reason, kind, tmp_path):
    cola(tmp_path, GOOD, "", row, GOOD)
    ((place, found),) = refused(TASKS["cola"], tmp_path)
    assert place == "train.jsonl:3" and reason in found and len(found) < 200
    data = load(TASKS["cola"], tmp_path, bad_rows="skip")
    assert [example.texts for example in data.train] == [("fine",)] * 2
    assert data.skipped == {"cola/train": {kind: 1}}
    assert (data.tallies["cola/train"].rows, data.tallies["cola/train"].kept) == (3, 2)


@pytest.mark.parametrize("label", [5.5, -0.1, float("nan"), float("inf"), "nan", "high", True, [1], None, 10**400])
@pytest.mark.parametrize("scale", [(0.0, 5.0), None])
def test_a_score_must_be_a_finite_number_in_range(label, scale, tmp_path):
    spec = TASKS["stsb"].model_copy(update={"range": scale})
    write(tmp_path, "stsb/train.jsonl", lines({**PAIR, "label": 1}, {**PAIR, "label": label}))
    write(tmp_path, "stsb/validation.jsonl", lines({**PAIR, "label": "2.5"}))
    if scale is None and label in (5.5, -0.1):
        assert load(spec, tmp_path).train[1].label == label
        return
    ((place, reason),) = refused(spec, tmp_path)
    expected = (
        "is not a number" if not isinstance(label, float) and label != "nan" else "outside [0, 5]" if scale else "not finite"
    )
    assert place == "train.jsonl:2" and expected in reason
    assert load(spec, tmp_path, bad_rows="skip").skipped == {"stsb/train": {"wrong label": 1}}


def test_all_faults_in_all_splits_are_in_one_message(tmp_path):
    kinds = [row for row, _, _ in ROWS if row != "[" * 100_000]
    cola(tmp_path, *kinds, *[GOOD] * 40, validation=(GOOD, {"sentence": "x", "label": 9}, "oops", GOOD))
    write(tmp_path, "cola/test.jsonl", lines({"sentence": "unlabelled"}, {"sentence": ""}))
    found = refused(TASKS["cola"], tmp_path)
    places = [place for place, _ in found]
    assert {"validation.jsonl:2", "validation.jsonl:3", "test.jsonl:2"} < set(places)
    wrong_labels = [place for place, reason in found if "the label is none" in reason and place.startswith("train")]
    assert len(wrong_labels) == 5 and ("train", "10 more rows are wrong (15 in all: wrong label)") in found
    assert {f"train.jsonl:{line}" for line in range(1, 13)} < set(places)
    data = load(TASKS["cola"].model_copy(update={"test": ()}), tmp_path, bad_rows="skip")
    assert data.skipped == {
        "cola/train": {
            "corrupt line": 4,
            "not UTF-8": 2,
            "missing text": 3,
            "blank text": 2,
            "long text": 1,
            "wrong label": 15,
        },
        "cola/validation": {"wrong label": 1, "corrupt line": 1},
    }
    assert len(data.train) == 40 and len(data.dev["validation"]) == 2


def test_half_of_a_split_may_be_left_out_but_not_more(tmp_path):
    cola(tmp_path, GOOD, "bad", GOOD, "bad")
    assert len(load(TASKS["cola"], tmp_path, bad_rows="skip").train) == 2
    cola(tmp_path, GOOD, "bad", "bad")
    found = refused(TASKS["cola"], tmp_path, bad_rows="skip")
    assert [place for place, _ in found] == ["train.jsonl:2", "train.jsonl:3", "train"]
    assert "cannot be skipped here: they are more than half" in found[-1][1]
    cola(tmp_path, "bad")
    assert len(refused(TASKS["cola"], tmp_path, bad_rows="skip")) == 2
    cola(tmp_path)
    assert refused(TASKS["cola"], tmp_path, bad_rows="skip") == [("train", "has no examples")]


def test_rows_without_an_agreed_label_are_left_out_and_not_counted_as_bad(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in (-1, -1, -1, 0, 7, 1)]
    write(tmp_path, "snli/train.jsonl", lines(*rows))
    write(tmp_path, "snli/validation.jsonl", lines(*rows[3:4]))
    assert refused(TASKS["snli"], tmp_path)[0][0] == "train.jsonl:5"
    assert load(TASKS["snli"], tmp_path, bad_rows="skip").skipped == {"snli/train": {"no agreed label": 3, "wrong label": 1}}
    write(tmp_path, "snli/train.jsonl", lines(*rows[:3]))
    assert refused(TASKS["snli"], tmp_path, bad_rows="skip") == [("train", "has no examples")]


def test_rows_of_a_test_split_are_never_left_out_since_predictions_are_numbered(tmp_path):
    cola(tmp_path, GOOD)
    write(tmp_path, "cola/test.jsonl", lines({"sentence": "a"}, {"sentence": None}, {"sentence": "b"}))
    found = refused(TASKS["cola"], tmp_path, bad_rows="skip")
    assert found[0][0] == "test.jsonl:2" and "numbered by its rows" in found[1][1]
    with pytest.raises(UserError) as caught:
        load(TASKS["cola"], tmp_path)
    assert "bad_rows" not in caught.value.problems[0].fix


def test_a_pair_with_one_blank_text_is_trained_on_and_counted(tmp_path):
    rows = [("", "b"), ("a", " "), ("a", "b"), ("", "")]
    write(tmp_path, "qqp/train.jsonl", lines(*({"question1": a, "question2": b, "label": 0} for a, b in rows)))
    write(tmp_path, "qqp/validation.jsonl", lines({"question1": "a", "question2": "b", "label": 1}))
    assert refused(TASKS["qqp"], tmp_path) == [("train.jsonl:4", "question1 and question2 are blank")]
    data = load(TASKS["qqp"], tmp_path, bad_rows="skip")
    assert [example.texts for example in data.train] == rows[:3] and data.tallies["qqp/train"].half_blank == 2


def test_a_column_missing_everywhere_is_reported_once_and_one_missing_in_a_row_by_row(tmp_path):
    cola(tmp_path, "oops", {"sentense": "a", "label": 1}, {"sentense": "b", "label": 1})
    assert refused(TASKS["cola"], tmp_path, bad_rows="skip") == [("train.jsonl:2", "lacks the column sentence")]
    cola(tmp_path, {"sentense": "a", "label": 1}, GOOD)
    assert refused(TASKS["cola"], tmp_path) == [("train.jsonl:1", "sentence is not a text")]


def test_a_limit_counts_examples_and_reads_no_further(tmp_path):
    cola(tmp_path, GOOD, "bad", GOOD, GOOD, "bad", "bad", "bad")
    data = load(TASKS["cola"], tmp_path, train_limit=3, bad_rows="skip")
    assert len(data.train) == 3 and data.skipped == {"cola/train": {"corrupt line": 1}}
