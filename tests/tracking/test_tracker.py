"""The events of a run that go to MLflow, and how it ended, tested without MLflow."""

import errno
import io
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mat_ds.errors import Interrupted, SaveError
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import holder_of
from mat_ds.tracking.content import essence, params_of
from mat_ds.tracking.destination import mirror_uri, uri_problems
from mat_ds.tracking.playback import Playback
from mat_ds.tracking.tracker import Tracker
from mat_ds.training.announce import git_commit
from tests.support.launch import ROOT, environment
from tests.support.tracked import hold, live, make_run


@pytest.mark.parametrize(
    "error, status",
    [
        (None, "FINISHED"),
        (Interrupted("USR1"), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
        (SaveError("full"), "FAILED"),
        (RuntimeError("out of luck"), "FAILED"),
    ],
)
def test_the_last_event_says_how_the_run_ended(error, status, tmp_path):
    run, tracker = make_run(tmp_path / "run"), Tracker(keeps=True)
    with suppress(Interrupted, KeyboardInterrupt, SaveError, RuntimeError), tracker:
        tracker.begin(run, 2, "none")
        tracker.log({"event": "step", "step": 3})
        if error:
            raise error
    tracker.settle()
    start, step, end = read_events(run.events)
    assert (start["step"], step["step"]) == (2, 3) and (end["event"], end["step"], end["status"]) == ("end", 3, status)


def test_events_that_a_full_disk_refused_are_written_later_and_training_continues(tmp_path, monkeypatch, capsys):
    run, tracker, room = make_run(tmp_path / "run"), Tracker(keeps=True), True

    class Disk(io.FileIO):
        def write(self, data):
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:10])  # a partial write

    opened = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *rest, **more: (
            io.BufferedRandom(Disk(self, mode.replace("b", "")), more["buffering"])
            if mode == "a+b"
            else opened(self, mode, *rest, **more)
        ),
    )
    with tracker:
        tracker.begin(run, 0, "none")
        tracker.log({"event": "step", "step": 1})
        room = False
        for step in (2, 3):
            tracker.log({"event": "step", "step": step})
        assert [record["step"] for record in read_events(run.events)] == [0, 1]
        room = True
        tracker.log({"event": "step", "step": 4})
    assert [record["step"] for record in read_events(run.events)] == [0, 1, 2, 3, 4, 4]
    assert capsys.readouterr().err.count("events.jsonl cannot be written") == 1


def test_a_run_that_never_began_and_other_ranks_write_nothing(tmp_path):
    with pytest.raises(RuntimeError), Tracker(keeps=True):
        raise RuntimeError
    run = make_run(tmp_path / "run")
    with Tracker(keeps=False) as tracker:
        tracker.begin(run, 0, None)
        tracker.log({"event": "step", "step": 1})
    tracker.settle()
    assert not run.events.exists() and not run.tracking.exists()


def test_parameters_are_those_of_the_first_start_and_every_later_change(tmp_path):
    starts = [
        {"changed": {}},
        {"changed": {"train.epochs": [3, 5], "data.path": [None, "x"]}},
        {"changed": {"train.epochs": [5, 7]}},
    ]
    config = {"train": {"epochs": 7, "batch_size": 8}, "data": {"path": "x"}, "tracking": {"tags": {}}}
    assert params_of(config, starts) == {
        "train.epochs": "3",
        "train.batch_size": "8",
        "data.path": "null",
        "resume_1.train.epochs": "5",
        "resume_1.data.path": "x",
        "resume_2.train.epochs": "7",
    }


def test_playback_yields_new_events_and_no_repeated_steps(tmp_path):
    run = make_run(tmp_path / "run")
    playback = Playback(tmp_path / "run" / "events.jsonl")
    live(run, 1, 5, status=None)
    assert sum(record["event"] == "step" for _, record in playback.read()) == 5 and list(playback.read()) == []
    live(run, 3, 6, status="KILLED")
    played = [record for _, record in playback.read()]
    assert [record["step"] for record in played if record["event"] == "step"] == [6]
    assert (played[0]["event"], played[-1]["event"], playback.last) == ("start", "end", played[-1])
    whole = [record for _, record in Playback(run.events).read()]
    assert len({(r["event"], r["step"]) for r in whole if essence(r)} - {("start", 0), ("start", 2)}) == len(whole) - 8


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:canary@host",
        "https://canary@host:5000/x",
        "http://host?token=canary",
        "postgresql://u:canary@h/db",
        "postgresql+psycopg2://h/db?password=canary&x=1",
        "mysql://canary:@h",
        "http://u:p@canary@host",
        "http://u:canary/x@host",
        "http://host/?auth=canary",
    ],
)
def test_an_address_with_a_secret_is_refused_and_not_printed(uri):
    (problem,) = uri_problems("tracking.uri", uri)
    assert "MLFLOW_TRACKING_TOKEN" in problem.fix and "canary" not in str(problem)


def test_an_address_names_a_server_or_a_database(tmp_path):
    for uri in (None, "none", "http://127.0.0.1:5000", "https://mlflow.site/a/b", "sqlite:///x.db", "sqlite:////a/b.db",
                "postgresql://host/db", "mysql+pymysql://host/db", "databricks",
                "databricks://profile", "sqlite:////home/a@b/x.db"):  # fmt: skip
        assert list(uri_problems("tracking.uri", uri)) == [], uri
    for uri in ("mlruns", "/a/mlruns", "file:///a", "ftp://h", "http:///x", "sqlite://x.db", "", "http//h:5000", "http://[x"):
        assert len(list(uri_problems("tracking.uri", uri))) == 1, uri
    run = tmp_path / "runs" / "one"
    assert mirror_uri(run, None) == f"sqlite:///{tmp_path}/runs/mlflow.db" and mirror_uri(run, "none") is None
    assert mirror_uri(run, "sqlite:///x.db") == f"sqlite:///{os.getcwd()}/x.db"
    assert mirror_uri(run, "http://127.0.0.1:5000") == "http://127.0.0.1:5000"


def test_a_lock_is_held_by_a_running_process_and_not_by_a_zombie(tmp_path):
    run = make_run(tmp_path / "run")
    assert not holder_of(run.path)
    hold(run)
    assert holder_of(run.path)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    hold(run, child.pid)
    assert holder_of(run.path)
    child.kill()
    deadline = time.monotonic() + 10
    while holder_of(run.path) and time.monotonic() < deadline:  # a zombie until `wait`
        time.sleep(0.05)
    assert not holder_of(run.path)
    child.wait()


def test_telemetry_of_libraries_is_off_unless_the_user_turns_it_on():
    code = "import os, mat_ds; print(os.environ['DO_NOT_TRACK'], os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    inherited = {key: value for key, value in environment().items() if "TRACK" not in key and "TELEMETRY" not in key}
    for own, expected in (({}, "1 true\n"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "1 false\n")):
        done = subprocess.run([sys.executable, "-c", code], env={**inherited, **own}, capture_output=True, text=True, cwd=ROOT)
        assert done.stdout == expected


def test_tracker_and_mirror_import_neither_mlflow_nor_torch():
    code = "import sys, mat_ds.tracking.tracker, mat_ds.tracking.mirror; sys.exit(bool({'mlflow', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), cwd=ROOT).returncode == 0


def test_the_commit_is_that_of_the_working_tree_itself(tmp_path):
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path) == head and git_commit(tmp_path / "inside") is None
