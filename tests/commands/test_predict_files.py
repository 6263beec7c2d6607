"""`mat-ds predict`: ids and texts go along into every kind of file, nothing is overwritten, bad rows are left out on demand."""

import csv
import json
import os

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from tests.support.heads import finished_run

ROWS = [
    {"id": "a7", "sentence": "the key is golden", "label": "old", "note": "x"},
    {"id": "b9", "sentence": 'a "quoted"\ttext, with\nlines', "label": "new", "note": "y"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "cola", "cola")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs") / "mnli", "mnli")


def predict(*arguments):
    assert main(["predict", *map(str, arguments)]) == ExitCode.OK


def refused(capsys, *arguments):
    assert main(["predict", *map(str, arguments)]) == ExitCode.USER_ERROR
    return capsys.readouterr().err


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def test_nothing_is_overwritten(tmp_path, capsys):
    texts, same, other = (
        write(tmp_path / "texts.jsonl", ROWS[0]),
        tmp_path / "same.jsonl",
        write(tmp_path / "other.csv", "mine"),
    )
    before = texts.read_text()
    os.link(texts, same)
    for out in (texts, same):
        assert "would be overwritten" in refused(capsys, "nowhere", texts, "--out", out) and texts.read_text() == before
    assert "exists already" in refused(capsys, "nowhere", texts, "--out", other) and other.read_text() == "mine\n"
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nothing")
    assert "exists already" in refused(capsys, "nowhere", texts, "--out", tmp_path / "dangling.csv")


def test_ids_and_texts_go_along_into_every_form(run, tmp_path, capsys):
    texts = write(tmp_path / "texts.jsonl", *ROWS)
    for suffix in ("jsonl", "csv", "tsv"):
        predict(run, texts, "--out", tmp_path / f"out.{suffix}")
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"2 answers in {tmp_path}/out.{suffix}, ") and "index, id, sentence, label, prob" in told
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["index"], row["id"], row["sentence"]) for row in found] == [
        (0, "a7", ROWS[0]["sentence"]),
        (1, "b9", ROWS[1]["sentence"]),
    ]
    assert "note" not in found[0] and found[0]["label"] in ("acceptable", "unacceptable"), "the answer, not the file's label"
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    with (tmp_path / "out.tsv").open(newline="") as file:
        tabs = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for row, written, flat in zip(found, table, tabs, strict=True):
        shares = {f"probability_{label}": str(share) for label, share in row.pop("probabilities").items()}
        assert written == {name: str(value) for name, value in row.items()} | shares
        assert flat == written | {"sentence": " ".join(written["sentence"].replace("\t", " ").split("\n"))}


def test_columns_that_an_answer_has_too_keep_both(tmp_path, run):
    texts = write(tmp_path / "texts.jsonl", {"label": "a text in a column of that name"})
    predict(run, texts, "--columns", "label", "--out", tmp_path / "out.jsonl")
    (found,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert found["input_label"] == "a text in a column of that name" and found["label"] != found["input_label"]


def test_texts_on_the_command_line_are_answered_like_those_of_a_file(run, pairs, tmp_path, capsys):
    predict(run, write(tmp_path / "texts.jsonl", *ROWS))
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predict(run, "--text", ROWS[0]["sentence"], "--text", ROWS[1]["sentence"])
    out, told = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert found == [{name: value for name, value in row.items() if name != "id"} for row in expected]
    assert told.splitlines()[-1] == "2 answers printed, JSON lines"
    predict(pairs, "--text", "a man sleeps", "--text", "he rests")
    (answer,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (answer["premise"], answer["hypothesis"]) == ("a man sleeps", "he rests")
    assert "two for each pair" in refused(capsys, pairs, "--text", "a man sleeps")
    assert "both say what to answer" in refused(capsys, run, "file.csv", "--text", "a")
    assert "FILE" in (told := refused(capsys, run)) and "is missing" in told
    assert "blank" in refused(capsys, run, "--text", " ")


def test_bad_rows_are_left_out_on_demand_and_the_others_keep_their_numbers(run, tmp_path, capsys, monkeypatch):
    def without_tokens(tokenizer, examples, max_length, kind):  # this model's tokenizer has tokens for everything
        return (i for i, example in enumerate(examples) if example.texts == ("\u200b",))

    monkeypatch.setattr("mat_ds.tasks.tokens.tokenless", without_tokens)
    texts = write(tmp_path / "texts.jsonl", ROWS[0], "{", {"sentence": " "}, {"sentense": "a"}, ROWS[1], {"sentence": "\u200b"})
    assert "texts.jsonl:2" in (told := refused(capsys, run, texts)) and "--skip_bad_rows" in told
    predict(run, texts, "--skip-bad-rows", "--batch-size", "2", "--out", tmp_path / "out.jsonl")
    assert [json.loads(line)["index"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 4]
    told = capsys.readouterr().err
    assert "left out 4 rows (1 corrupt line, 1 blank text, 1 missing text, 1 no tokens)" in told and "texts.jsonl:2" in told
    bad = write(tmp_path / "bad.jsonl", "{", "{")
    assert "bad.jsonl:1" in refused(capsys, run, bad, "--skip_bad_rows", "--out", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()
    wrong = write(tmp_path / "wrong.jsonl", {"sentense": "a"}, ROWS[0])
    assert "lacks the column" in refused(capsys, run, wrong, "--skip_bad_rows"), "a wrong column is not a bad row"
    assert "GLUE" in refused(capsys, run, texts, "--skip_bad_rows", "--out", tmp_path / "CoLA.tsv")
