"""`mat-ds predict`: its answers are the model's for every file format, and bad rows are named."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.artifacts.calibrated import write_temperature
from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.evaluation.predictor import Predictor
from mat_ds.registry.locate import locate
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.example import Example
from mat_ds.tasks.registry import TASKS
from mat_ds.terminal.lost_readers import Lasting
from mat_ds.training.finish import write_predictions
from tests.support.heads import HEADS, MAX_LENGTH, finished_run, sentences, texts_of, write_rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {task: finished_run(folder / task, task) for task in HEADS}


def logits(run, texts):
    """Logits (N, C) computed for one text at a time with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run / "model").eval()
    cut = {"truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    with torch.no_grad():
        return torch.cat([model(**tokenizer(*row, **cut)).logits for row in texts])


def predict(run, file, *more, out=None):
    out = out or file.with_name("answers.jsonl")
    out.unlink(missing_ok=True)
    assert main(["predict", str(run), str(file), "--batch_size", "5", "--out", str(out), *more]) == ExitCode.OK
    return [json.loads(line) for line in out.read_text().splitlines()] if out.suffix == ".jsonl" else out.read_text()


@pytest.mark.parametrize("task", HEADS)
def test_answers_are_the_models_for_each_text(task, runs, tmp_path):
    spec, texts = TASKS[task], texts_of(task)
    found = predict(runs[task], write_rows(tmp_path / "in.jsonl", spec, texts))
    expected = logits(runs[task], texts)
    assert [answer["index"] for answer in found] == list(range(len(texts)))
    if spec.kind == "regression":
        assert [answer["score"] for answer in found] == pytest.approx(expected[:, 0].tolist(), abs=1e-5)
        assert set(found[0]) == {"index", "sentence1", "sentence2", "score"}
    else:
        table = np.array([[answer["probabilities"][label] for label in spec.labels] for answer in found])
        assert table == pytest.approx(expected.softmax(1).numpy(), abs=1e-5)
        assert [answer["label"] for answer in found] == [spec.labels[i] for i in expected.argmax(1)]
        assert len({answer["label"] for answer in found}) > 1, "or the test sees nothing"


def test_calibrated_answers_have_the_probabilities_of_logits_that_a_temperature_divides(runs, tmp_path, capsys):
    run, spec, texts = tmp_path / "run", TASKS["cola"], texts_of("cola")
    shutil.copytree(runs["cola"], run)
    file = write_rows(tmp_path / "in.jsonl", spec, texts)
    assert main(["predict", str(run), str(file), "--calibrated"]) == ExitCode.USER_ERROR
    assert "has no calibration.json" in capsys.readouterr().err
    write_temperature(run / "model", {"temperature": 3.0, "fitted_on": ["validation"], "examples": 9})
    found = predict(run, file, "--calibrated")
    table = np.array([[answer["probabilities"][label] for label in spec.labels] for answer in found])
    assert table == pytest.approx((logits(run, texts) / 3).softmax(1).numpy(), abs=1e-5)
    (run / "model" / "calibration.json").write_text('{"temperature": -1}')
    assert main(["predict", str(run), str(file), "--calibrated"]) == ExitCode.USER_ERROR
    assert "is malformed at temperature" in capsys.readouterr().err


def test_every_file_format_gets_the_same_answers(runs, tmp_path):
    texts = [row for row in texts_of("cola") if "\u2028" not in row[0]]
    found = [
        predict(runs["cola"], write_rows(tmp_path / f"in{suffix}", TASKS["cola"], texts))
        for suffix in (".jsonl", ".csv", ".tsv", ".txt")
    ]
    found[-1] = [{"sentence" if name == "text" else name: value for name, value in answer.items()} for answer in found[-1]]
    assert len(found[0]) == len(texts) and all(answers == found[0] for answers in found)
    assert [answer["sentence"] for answer in found[0]] == [text for (text,) in texts]
    write_rows(tmp_path / "in.jsonl", TASKS["cola"], texts).rename(tmp_path / "unnamed")
    assert predict(runs["cola"], tmp_path / "unnamed", "--format", "jsonl") == found[0]


@pytest.mark.parametrize("task", HEADS)
def test_a_submission_equals_the_one_that_training_writes(task, runs, tmp_path):
    spec, texts = TASKS[task], texts_of(task)
    split, name = next(iter(spec.submission.items()))
    found = predict(runs[task], write_rows(tmp_path / "in.csv", spec, texts), out=tmp_path / name)
    examples = [Example(text, None) for text in texts]
    write_predictions(spec, split, logits(runs[task], texts), examples, RunDirectory(tmp_path))
    assert found == (tmp_path / "predictions" / name).read_text()


def test_columns_may_have_other_names(runs, tmp_path):
    texts = texts_of("stsb")
    found = predict(runs["stsb"], write_rows(tmp_path / "in.csv", TASKS["stsb"], texts))
    other = TASKS["stsb"].model_copy(update={"text": ("left", "right")})
    renamed = predict(runs["stsb"], write_rows(tmp_path / "in.tsv", other, texts), "--columns", "left", "right")
    assert [answer["score"] for answer in renamed] == [answer["score"] for answer in found]
    assert [(answer["left"], answer["right"]) for answer in renamed] == texts


def test_a_model_without_a_task_description_answers_with_its_own_labels(runs, tmp_path):
    file = write_rows(tmp_path / "in.txt", TASKS["cola"], [row for row in texts_of("cola") if len(row[0]) < 40])
    (tmp_path / "bare").mkdir()
    for path in (runs["cola"] / "model").iterdir():
        if path.name not in ("mat_ds.json", "README.md"):
            (tmp_path / "bare" / path.name).symlink_to(path)
    found, expected = (predict(model, file) for model in (tmp_path / "bare", runs["cola"]))
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert predict(tmp_path / "bare", file, "--task", "cola", out=tmp_path / "CoLA.tsv").startswith("index\tprediction\n0\t")


def test_a_bad_row_is_named_and_leaves_no_file_behind(runs, tmp_path, capfd):
    file = tmp_path / "in.jsonl"
    lines = [json.dumps({"sentence": text}) for text in sentences()]
    for line, told in (
        ('{"sentence": 3}', "is not a text"),
        ("{", "is not JSON"),
        ('{"sentence": " "}', "blank"),
        ('{"sentense": "a"}', "did you mean 'sentense'"),
    ):
        file.write_text("\n".join([*lines[:7], line, *lines[7:]]))
        assert main(["predict", str(runs["cola"]), str(file), "--out", str(tmp_path / "out.jsonl")]) == ExitCode.USER_ERROR
        error = capfd.readouterr().err
        assert f"{file}:8" in error and told in error, error
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert main(["predict", str(runs["cola"]), str(file), "--batch_size", "3"]) == ExitCode.USER_ERROR
    assert len(capfd.readouterr().out.splitlines()) == 6, "whole batches before it are answered"


def test_standard_input_is_read_like_a_file(runs, tmp_path):
    file = write_rows(tmp_path / "in.csv", TASKS["mnli"], texts_of("mnli"))
    expected, kept = predict(runs["mnli"], file), os.dup(0)
    with file.open() as stream:
        os.dup2(stream.fileno(), 0)
        try:
            out = ["--format", "csv", "--out", str(tmp_path / "piped.jsonl")]
            assert main(["predict", str(runs["mnli"]), "-", *out]) == ExitCode.OK
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    found = [json.loads(line) for line in (tmp_path / "piped.jsonl").read_text().splitlines()]
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]


def test_a_reader_who_has_enough_ends_the_work_without_a_word(runs, tmp_path, monkeypatch, capfd):
    file, answered = write_rows(tmp_path / "in.jsonl", TASKS["cola"], texts_of("cola")), []
    reading, writing = os.pipe()
    os.close(reading)
    once = Predictor.kept
    monkeypatch.setattr(Predictor, "kept", lambda *given: (answered.append(1), once(*given))[1])
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr("sys.stdout", Lasting(nobody))
        assert main(["predict", str(runs["cola"]), str(file), "--batch_size", "3"]) == ExitCode.OK
    assert len(answered) == 1 and "answers" not in capfd.readouterr().err


def test_a_wrong_command_is_refused_before_a_model_is_loaded(runs, tmp_path, capsys):
    wrong = ["predict", "nowhere/at/all", str(tmp_path / "missing.csv"), "--out", "a.xml", "--batch_size", "0"]
    assert main(wrong) == ExitCode.USER_ERROR
    told = capsys.readouterr().err
    assert "3 problems" in told and all(word in told for word in ("there is no such file", ".jsonl", "at least 1"))
    file = write_rows(tmp_path / "in.txt", TASKS["cola"], texts_of("cola"))
    for arguments, message in (
        ([runs["mnli"], file], "pair of texts"),
        ([runs["cola"], file, "--columns", "a", "b"], "reads 1 text"),
        ([runs["mnli"], file, "--task", "cola"], "has 2 outputs"),
        ([runs["cola"] / "predictions", file], "there is no such folder"),
    ):
        assert main(["predict", *map(str, arguments)]) == ExitCode.USER_ERROR
        assert message in capsys.readouterr().err


def test_labels_in_another_order_than_the_tasks_are_refused(runs, tmp_path, capsys):
    stranger = shutil.copytree(runs["mnli"] / "model", tmp_path / "stranger")
    (stranger / "mat_ds.json").unlink()
    config = json.loads((stranger / "config.json").read_text())
    config |= {"id2label": {"0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT"}}
    (stranger / "config.json").write_text(json.dumps(config))
    file = write_rows(tmp_path / "in.jsonl", TASKS["mnli"], texts_of("mnli"))
    assert main(["predict", str(stranger), str(file), "--task", "mnli"]) == ExitCode.USER_ERROR
    assert "labels: [contradiction, neutral, entailment]" in capsys.readouterr().err


def test_a_model_may_be_a_run_a_folder_or_a_hub_id(runs, tmp_path, offline, capsys):
    assert locate(str(runs["cola"])) == locate(str(runs["cola"] / "model")) == runs["cola"] / "model"
    (tmp_path / "in.txt").write_text("a\n")
    assert main(["predict", "somebody/nothing", str(tmp_path / "in.txt")]) == ExitCode.USER_ERROR
    assert "hf download somebody/nothing --local-dir" in capsys.readouterr().err
