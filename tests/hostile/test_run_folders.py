"""Hostile run folders: only files inside are read and delivered, and malformed ones cause no traceback and no wait."""

import json
import os
import random
import re
import socket

import pytest
from mlflow import MlflowClient

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.storage.own_files import own_files
from mat_ds.tracking.history import runs_of
from tests.hostile.listening import CANARY, SECRETS, carrying
from tests.support import reported
from tests.support.heads import finished_run
from tests.support.tracked import found, live, make_run

FILES = ("config.yaml", "environment.json", "events.jsonl", "results.json", "tracking.json")
# Contents for any file of a run folder.
SHAPES = [b"", b"\x00", b"[]", b"null", b"3", b'"x"', b"{", b"\xff\xfe", b"[" * 100_000, b"- a\n- b\n", b'{"a": ' * 3000, b"{}",
          b'{"x": 1e999}', b"9" * 6000, b'{"tracking": 3}', b'{"tracking": {"tags": [1]}}', b'{"starts": 3}', b"a: b: c",
          b'{"starts": [{"changed": {"x": 3}}]}', b'{"packages": []}', b'{"command": 3}', b'{"deepspeed_config": {"fp16": 3}}',
          b'{"tracking": {"uri": 5}}', b'{"tracking": {"uri": "http://u:canary-5c1f@h"}}',
          b'{"tracking": {"experiment": {}}}']  # fmt: skip


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a database whose tables exist, since creating them takes seconds."""
    folder = tmp_path_factory.mktemp("shared")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def outside(tmp_path):
    """A folder with secrets outside the run."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name in ("secret.txt", "secret.yaml", "secret.json"):
        (folder / name).write_text(f'{{"key": "{CANARY}", "command": ["{CANARY}"]}}\n')
    return folder


def sync(run, folder):
    return main(["sync", str(run.path), "--uri", f"sqlite:///{folder}/mlflow.db"])


def test_a_link_out_of_the_folder_is_not_uploaded_and_the_log_says_so(shared, outside, tmp_path, capfd):
    run = make_run(tmp_path / "run", experiment="links")
    live(run, 1, 2)
    (run.plots / "own.png").write_bytes(b"png")
    (run.plots / "again.png").symlink_to("own.png")
    (run.plots / "x.png").symlink_to(outside / "secret.txt")
    (run.plots / "up.png").symlink_to("../../outside/secret.txt")
    (run.plots / "host").symlink_to("/etc/hostname")
    (run.plots / "folder").symlink_to(outside)
    (run.plots / "gone").symlink_to("nowhere")
    (run.plots / "round").symlink_to("round")
    (run.predictions / "more").symlink_to(run.path)
    os.mkfifo(run.predictions / "pipe.tsv")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(run.predictions / "socket"))
    assert sync(run, shared) == ExitCode.OK
    client = MlflowClient(f"sqlite:///{shared}/mlflow.db")
    there = [
        file.path
        for folder in ("plots", "predictions")
        for file in client.list_artifacts(found(client, run).info.run_id, folder)
    ]
    assert there == ["plots/again.png", "plots/own.png", "predictions/test.tsv"]
    told, said = run.tracking_log.read_text(), capfd.readouterr().err
    for name in ("x.png", "up.png", "host", "folder", "gone", "round", "more", "pipe.tsv", "socket"):
        assert len(re.findall(rf"not uploaded: \w+/{name} ", told)) == 1 and f"/{name} " in said, name
    assert not carrying(shared, run.path)
    assert sync(run, shared) == ExitCode.OK and "nothing new" in capfd.readouterr().out


def test_a_linked_folder_is_not_uploaded(shared, outside, tmp_path):
    run = make_run(tmp_path / "run", experiment="links")
    live(run, 1, 2)
    run.plots.rmdir()
    run.plots.symlink_to(outside)
    assert sync(run, shared) == ExitCode.OK and "not uploaded: plots is a link" in run.tracking_log.read_text()
    assert not carrying(shared)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["link", "pipe", "folder"])
def test_a_run_with_links_or_pipes_in_place_of_its_files_is_refused(name, how, shared, outside, tmp_path, capfd):
    run = make_run(tmp_path / "run")
    live(run, 1, 2)
    (run.path / name).unlink(missing_ok=True)
    if how == "link":
        (run.path / name).symlink_to(outside / f"secret.{'yaml' if name == 'config.yaml' else 'json'}")
    else:
        os.mkfifo(run.path / name) if how == "pipe" else (run.path / name).mkdir()
    codes = {
        main(command)
        for command in (
            ["sync", str(run.path)],
            ["register", str(run.path), "x"],
            ["report", str(run.path), "--out", str(tmp_path / "out")],
        )
    }
    said = capfd.readouterr()
    assert codes == {ExitCode.USER_ERROR} and CANARY not in said.out + said.err and "Traceback" not in said.err
    assert not carrying(shared) and not (tmp_path / "mlflow.db").exists() and not (tmp_path / "out").exists()


def test_the_log_of_the_mirror_is_not_written_through_a_link(shared, outside, tmp_path):
    run = make_run(tmp_path / "run", experiment="links")
    live(run, 1, 2)
    (run.plots / "x.png").symlink_to(outside / "secret.txt")
    before = (outside / "secret.json").read_bytes()
    run.tracking_log.symlink_to(outside / "secret.json")
    assert sync(run, shared) == ExitCode.OK and (outside / "secret.json").read_bytes() == before


@pytest.mark.parametrize("name", FILES)
def test_malformed_files_cause_no_traceback(name, shared, tmp_path, capfd, monkeypatch):
    if name not in ("events.jsonl", "results.json"):  # figures are drawn from these, which takes most of the time
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **kwargs: None)
    for number, shape in enumerate(SHAPES):
        run = reported.make_run(tmp_path / f"run-{number}", (0.1, 0.2, 0.3), options={"tracking": {"experiment": "shapes"}})
        (run.path / name).write_bytes(shape)
        for command in (
            ["sync", str(run.path), "--uri", f"sqlite:///{shared}/mlflow.db"],
            ["report", str(run.path), "--out", str(tmp_path / f"out-{number}")],
        ):
            code = main(command)
            said = capfd.readouterr()
            assert code in (ExitCode.OK, ExitCode.USER_ERROR), (shape[:40], command[0], said.err)
            assert "Traceback" not in said.err and CANARY not in said.err + said.out, (shape[:40], command[0])


LINES = [
    {"event": "step", "step": "1"}, {"event": "step", "step": -1}, {"event": "step", "step": 10**30},
    {"event": ["x"], "step": 1},
    {"event": "step", "step": True}, {"event": "step", "step": 1.5}, {"event": "step", "step": 1, "time": "now"}, {"event": {}},
    {"event": "step", "step": 1, "time": 1e300}, {"event": "step", "step": 2, "loss": "high", "L": [1], "R": {}, "epoch": None},
    {"event": "evaluation", "step": 2, "score": "good"}, {"event": "evaluation", "step": 2}, {"event": "end", "step": 2},
    {"event": "evaluation", "step": 2, "score": 10**400, "validation": {"accuracy": [1]}},
    {"event": "end", "step": 2, "status": []},
    {"event": "evaluation", "step": 2, "score": 0.5, "validation": [0.5]}, {"event": "start"}, {"event": "start", "step": None},
    {"event": "telemetry", "step": 2, "R": "x", "delta_linf": {}}, {"event": "step", "step": 2, "samples_per_second": 0},
    {"event": "system", "step": 2, "rank_memory_mib": "x"}, {"event": "step", "step": 2, "x" * 500: 1, "\x00\x1b": 1},
]  # fmt: skip


def test_malformed_events_cause_no_traceback_and_the_others_are_delivered(shared, tmp_path, capfd):
    random.seed(0)
    for number in range(6):
        run = reported.make_run(tmp_path / f"run-{number}", (0.1, 0.2, 0.3), options={"tracking": {"experiment": "events"}})
        lines = run.events.read_text().splitlines()
        for line in random.sample(LINES, len(LINES) if number == 0 else 4):
            lines.insert(random.randrange(len(lines)), json.dumps({"time": 1e9, **line}))
        run.events.write_text("\n".join(lines) + "\n")
        assert sync(run, shared) == ExitCode.OK, capfd.readouterr().err
        assert main(["report", str(run.path), "--out", str(tmp_path / f"out-{number}")]) == ExitCode.OK, capfd.readouterr().err
        (tracked,) = [one for one in runs_of(f"sqlite:///{shared}/mlflow.db", "events") if one.directory == run.path]
        assert tracked.status == "FINISHED"


def test_files_are_found_in_very_deep_folders(tmp_path):
    folder, depth = tmp_path / "run", 400
    folder.mkdir()
    here = os.getcwd()
    try:  # the path may be too long to open
        os.chdir(folder)
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        open("file", "w").close()
    finally:
        os.chdir(here)
    files = list(own_files(folder, ["d"]))
    assert len(files) == 1 and files[0][0].name == "file" and files[0][1] is None


@pytest.mark.parametrize("name", ["results.json", "environment.json", "config.yaml", "model/mat_ds.json", "events.jsonl"])
def test_registering_a_malformed_run_causes_no_traceback(name, tmp_path, capfd):
    run = finished_run(tmp_path / "run", "cola")
    whole = (run / name).read_bytes()
    torn = [
        whole[: len(whole) // 2],
        whole.replace(b"0", b'"'),
        whole.replace(b"score", b"scare"),
        whole.replace(b"step", b"stop"),
    ]
    for shape in (*SHAPES, *(part for part in torn if part != whole)):
        (run / name).write_bytes(shape)
        code = main(["register", str(run), "name", "--uri", f"sqlite:///{tmp_path}/none/mlflow.db"])
        said = capfd.readouterr()
        # Missing options have defaults, and lines that are not events are skipped.
        assert code == ExitCode.USER_ERROR or (code == ExitCode.OK and name in ("config.yaml", "events.jsonl")), shape[:60]
        assert "Traceback" not in said.err and CANARY not in said.err + said.out, shape[:60]


def test_a_model_outside_the_folder_or_with_links_is_not_registered(outside, tmp_path, capfd):
    run = finished_run(tmp_path / "run", "cola")
    (run / "model" / "notes.txt").symlink_to(outside / "secret.txt")
    register = ["register", str(run), "name", "--uri", f"sqlite:///{tmp_path}/mlflow.db"]
    assert main(register) == ExitCode.USER_ERROR and "model/notes.txt" in capfd.readouterr().err
    (run / "model" / "notes.txt").unlink()
    os.mkfifo(run / "model" / "pipe")
    assert main(register) == ExitCode.USER_ERROR and "neither a file nor a folder" in capfd.readouterr().err
    (run / "model" / "pipe").unlink()
    (run / "model").rename(tmp_path / "elsewhere")
    (run / "model").symlink_to(tmp_path / "elsewhere")
    assert main(register) == ExitCode.USER_ERROR and "leads out of the run directory" in capfd.readouterr().err
    assert not (tmp_path / "mlflow.db").exists()
