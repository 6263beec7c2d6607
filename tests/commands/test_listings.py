"""`mat-ds runs`, `options` and `env`: tables and lists in 80 columns, from what is there."""

import json
import socket

import pytest
import yaml

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.methods import METHODS
from mat_ds.runs.table import option_groups
from mat_ds.storage.lock import RunLock


def printed(capsys, *arguments):
    assert main(list(arguments)) == ExitCode.OK
    return capsys.readouterr().out


def write_run(folder, scores, method="mat", began=0.0, end=None, **results):
    """A run of 10 steps, of 8 examples and 2 s each, evaluated after every second one."""
    folder.mkdir(parents=True)
    config = {"task": "tasks/reviews.yaml", "method": {"name": method}, "train": {"batch_size": 8, "max_steps": 20}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "environment.json").write_text("{}")
    events = [{"event": "start", "step": 0}]
    for step in range(1, 11):
        events.append({"event": "step", "step": step, "samples_per_second": 4.0})
        if step % 2 == 0 and scores:
            events.append({"event": "evaluation", "step": step, "score": scores[step // 2 - 1]})
    events += [{"event": "end", "step": 10, "status": end}] if end else []
    (folder / "events.jsonl").write_text("".join(json.dumps({**event, "time": began}) + "\n" for event in events))
    if results:
        (folder / "results.json").write_text(json.dumps(results))


def test_runs_are_listed_oldest_first_with_their_scores_and_how_they_stand(tmp_path, capsys):
    scores = [0.1, 0.5, 0.3, 0.7, 0.6]
    write_run(tmp_path / "b", scores, began=2.0, end="FINISHED", steps=10, seconds=3725.0, task="reviews")
    write_run(tmp_path / "a", scores, "freelb", began=3.0, end="FAILED")
    write_run(tmp_path / "sweep" / "t-0001", [], began=1.0)
    write_run(tmp_path / "going", scores, began=4.0)
    write_run(tmp_path / "told", scores, began=5.0, end="KILLED")
    (tmp_path / "told" / "interrupted.json").write_text("{}")
    write_run(tmp_path / "broken", scores, began=6.0)
    (tmp_path / "broken" / "config.yaml").write_text("- no\n- options\n")
    lock = RunLock()
    assert lock.take(tmp_path / "going")
    try:
        lines = printed(capsys, "runs", str(tmp_path)).splitlines()
    finally:
        lock.release()
    head, *rows = ([word.strip() for word in line.split("  ") if word.strip()] for line in lines)
    assert head == ["run", "task", "method", "last", "best", "median", "time", "status"]
    assert [row[0] for row in rows] == ["broken", "sweep/t-0001", "b", "a", "going", "told"]
    shown = {row[0]: row[1:] for row in rows}
    # The last half of ten steps: the evaluations after steps 6, 8 and 10.
    assert shown["b"] == ["reviews", "mat", "0.6000", "0.7000", "0.6000", "1h02m", "finished"]
    assert shown["a"] == ["reviews", "freelb", "0.6000", "0.7000", "0.6000", "20s", "failed 10/20"]
    assert shown["sweep/t-0001"] == ["reviews", "mat", "-", "-", "-", "20s", "unfinished 10/20"]
    assert shown["going"][-1] == "running 10/20" and shown["told"][-1] == "interrupted 10/20"
    assert "cannot be read" in shown["broken"][-1]
    as_json = json.loads(printed(capsys, "runs", str(tmp_path / "b"), "--json"))
    assert [(line["run"], line["best"], line["status"]) for line in as_json] == [("b", 0.7, "finished")]


@pytest.mark.parametrize(
    "file, text, told",
    [
        ("config.yaml", "task: 1\nmethod: []\ntrain: 3\n", "cannot be read"),
        (
            "events.jsonl",
            '{"event": "evaluation", "step": 1, "score": 1e999, "time": 1}\n{"event": "evaluation", "step": 2, "time": 1}\n',
            "unfinished",
        ),
        ("events.jsonl", '{"event": "evaluation", "step": 1, "score": ' + "9" * 400 + "}\n", "cannot be read"),
        ("results.json", '{"seconds": 1e999, "task": "\\u001b[2Jx"}', "unfinished"),
        ("results.json", '{"seconds": "long"}', "cannot be read"),
        ("results.json", "[]", "cannot be read"),
    ],
)
def test_a_strangers_run_costs_its_own_line_only(file, text, told, tmp_path, capsys):
    write_run(tmp_path / "mine", [0.5] * 5, end="FINISHED", steps=10)
    write_run(tmp_path / "theirs", [], began=1.0)
    (tmp_path / "theirs" / file).write_text(text)
    out = printed(capsys, "runs", str(tmp_path))
    assert "finished" in out.splitlines()[1] and told in out.splitlines()[2] and "\x1b" not in out


def test_long_names_are_cut_so_that_a_table_has_80_columns(tmp_path, capsys):
    write_run(tmp_path / "seeds" / f"{'long-' * 12}-20261127-193954", [0.5] * 5, "rdrop", end="FINISHED", steps=10)
    lines = printed(capsys, "runs", str(tmp_path)).splitlines()
    assert max(map(len, lines)) <= 80 and "193954 " in lines[1] and ".." in lines[1]


def test_a_folder_without_runs_is_an_error(tmp_path, capsys):
    for folder, reason in ((tmp_path, "has no run"), (tmp_path / "none", "there is no such folder")):
        assert main(["runs", str(folder)]) == ExitCode.USER_ERROR
        assert reason in capsys.readouterr().err


def test_every_option_is_listed_with_its_default_and_meaning_in_80_columns(capsys):
    listed = printed(capsys, "options") + "".join(printed(capsys, "options", name) for name in METHODS)
    assert max(map(len, listed.splitlines())) <= 80
    words = " ".join(listed.split())
    for group in option_groups():
        assert group.title in words
        for row in group.rows:
            assert f"{row.key} {' '.join(row.default.split())} {' '.join(row.meaning.split())}" in words


@pytest.mark.parametrize(
    "asked, first, more",
    [
        ("data", "The data", "data.dev_share  null"),
        ("model.lora", "Adapters", "model.lora.r  8"),
        ("mat", "method.name=mat: mixed-strategy adversarial training", "method.theta_steps  10"),
        ("method.name=mat", "method.name=mat: mixed-strategy adversarial training", "method.theta_steps  10"),
        ("train.epochs", "  train.epochs  3.0", "passes over the training examples"),
        ("batch-size", "  train.batch_size  32", "examples of one outer step"),
        ("delta_lr", "  method.delta_lr  0.001", "of alum"),
    ],
)
def test_a_section_a_method_or_an_option_can_be_asked_for(asked, first, more, capsys):
    out = printed(capsys, "options", asked)
    assert out.splitlines()[0] == first and more in out


def test_the_environment_is_described_without_secrets(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter22@tracking.example/x")
    monkeypatch.setenv("NCCL_DEBUG", "INFO\x1b[31m")
    monkeypatch.setenv("UNRELATED", "private")
    out = printed(capsys, "env")
    assert "HF_TOKEN=***" in out and "NCCL_DEBUG=INFO\\x1b[31m" in out and "tracking.example" in out
    assert not any(secret in out for secret in ("hf_abcdefgh", "hunter22", "private", "\x1b", socket.gethostname() + "\n"))
    assert all(f"\n{title}:\n" in f"\n{out}" for title in ("mat_ds", "system", "packages", "devices", "variables"))
    assert "\n  torch 2" in out
