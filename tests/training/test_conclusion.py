"""The last lines of a run name its metric and its files, and end with a command that works as it stands."""

import json
import shlex
import sys
from types import SimpleNamespace

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.example import Example
from mat_ds.tasks.registry import TASKS
from mat_ds.training import conclusion as module
from mat_ds.training.conclusion import conclusion, next_command, program, score_name
from tests.support.heads import finished_run

RESULTS = {
    "best": {"step": 1280, "score": 0.9028},
    "last": {"step": 1400, "score": 0.8981},
    "median_last_half": 0.8901,
    "seconds": 61.6,
    "samples_per_second": 388.2,
    "export": {"score": 0.9028, "score_fp32": 0.9028, "dtype": "float32", "reproduces_reported": True},
}


def data_of(task, *texts):
    return SimpleNamespace(spec=TASKS[task], dev={"validation": [Example(texts, 1)] if texts else []})


@pytest.fixture
def rundir(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.create()
    return run


def test_the_last_lines_name_metric_files_and_next_command(rundir):
    (rundir.plots / "scores.png").write_bytes(b"")
    lines = conclusion(RESULTS, data_of("cola", "It is golden."), rundir, as_json=False).splitlines()
    assert lines[0] == "result     matthews_correlation 0.9028 best (step 1,280), 0.8981 last, 0.8901 median of the last half"
    named = {line[:11].strip(): line[11:] for line in lines}
    assert list(named) == ["result", "speed", "model", "plots", "report", "next"]
    assert named["model"] == f"{rundir.model} reproduces its score in plain transformers: 0.9028 in float32"
    assert named["plots"] == str(rundir.plots) and str(rundir.model / "README.md") in named["report"]


def test_a_half_precision_run_tells_both_scores_and_one_without_plots_names_none(rundir):
    export = RESULTS["export"] | {"dtype": "bfloat16", "score_fp32": 0.9031, "reproduces_reported": False}
    said = conclusion(RESULTS | {"export": export}, data_of("cola"), rundir, as_json=False)
    assert (
        "does NOT reproduce the score reported in training in plain transformers: 0.9028 in bfloat16, 0.9031 in float32" in said
    )
    assert "plots" not in said
    assert json.loads(conclusion(RESULTS, data_of("cola"), rundir, as_json=True))["run"] == str(rundir.path)


def test_adapters_say_how_they_are_loaded(rundir):
    (rundir.model / "adapter_config.json").parent.mkdir(exist_ok=True)
    (rundir.model / "adapter_config.json").write_text("{}")
    said = conclusion(RESULTS, data_of("cola"), rundir, as_json=False)
    assert "its card says how peft loads both" in said and f"export {rundir.path} <folder> --merge" in said


def test_a_score_of_several_metrics_or_splits_is_named_as_their_mean():
    assert score_name(TASKS["mrpc"]) == "mean of accuracy, f1" and score_name(TASKS["mnli"]).endswith("accuracy over 2 splits")


@pytest.mark.parametrize(
    "task, texts", [("cola", ('Bill\'s "key" is golden.',)), ("mrpc", ("Bill's key.", "A key of Bill's."))]
)
def test_the_next_command_works_as_it_stands(task, texts, tmp_path, monkeypatch, capfd):
    run = finished_run(tmp_path / "a run", task)
    monkeypatch.setattr(module, "program", lambda: "mat-ds")
    name, *words = shlex.split(next_command(data_of(task, *texts), RunDirectory(run)))
    assert name == "mat-ds" and main(words) == ExitCode.OK
    answer = json.loads(capfd.readouterr().out)
    assert answer["label"] in TASKS[task].labels and all(text in answer.values() for text in texts)


@pytest.mark.parametrize("text", ["-n", "a\x1b[2Jb", "\u202e"])
def test_a_text_that_is_a_flag_or_not_printed_as_it_is_is_not_in_the_command(text, rundir):
    assert next_command(data_of("cola", text), rundir).endswith(" --text 'some text'")


def test_the_program_is_named_as_it_has_to_be_typed(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/mat-ds")
    assert program() == "mat-ds"
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv" / "bin" / "python"))
    assert program().endswith("python' -m mat_ds.cli")
    (tmp_path / "my venv" / "bin").mkdir(parents=True)
    (tmp_path / "my venv" / "bin" / "mat-ds").touch()
    monkeypatch.chdir(tmp_path)
    assert program() == "'my venv/bin/mat-ds'"
