"""A job that was silent for too long and lost its directory: it notices, stops, and does not disturb its successor."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mat_ds.errors import Displaced, ExitCode, Interrupted
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.world import World
from mat_ds.storage import leases, lock
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import LOCK, RunLock
from mat_ds.terminal.stop_signals import StopSignals
from mat_ds.tracking.tracker import Tracker
from mat_ds.training import stopping
from mat_ds.training.stopping import StopRequests
from tests.support.locking import asked, said, start_holder, takes, tokens
from tests.support.tracked import make_run


@pytest.fixture(autouse=True)
def quick(short_leases, monkeypatch):
    """Short leases, and no test is a SLURM job."""
    for variable in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(variable, raising=False)


def taken_after_a_while(mine, folder):
    """Takes the lock, with attempts until it succeeds; returns the seconds that this took."""
    began = time.monotonic()
    while not mine.take(folder):
        assert time.monotonic() < began + 30
        time.sleep(0.05)
    return time.monotonic() - began


def displaced(folder):
    """(the lock of a displaced job, the lock of its successor)"""
    first, second = RunLock(), RunLock()
    first.acquire(folder)
    (folder / LOCK / first.token).unlink()  # as another job does after the lease was not renewed
    second.acquire(folder)
    return first, second


def test_a_displaced_job_notices_at_every_check_and_releases_only_its_own_lock(tmp_path):
    first, second = displaced(tmp_path)
    for _ in range(2):
        with pytest.raises(Displaced, match=f"process {os.getpid()} on {socket.gethostname()}"):
            first.check()
        with pytest.raises(Displaced):
            first.check_from_memory()
        second.check()
    first.release()
    second.check()
    assert tokens(tmp_path) == [second.token] and not takes(tmp_path)
    second.release()
    assert takes(tmp_path)


def test_a_job_whose_lock_somebody_deleted_is_displaced(tmp_path):
    mine = RunLock()
    mine.acquire(tmp_path)
    shutil.rmtree(tmp_path / LOCK)
    with pytest.raises(Displaced, match="deleted its lock"):
        mine.check()


def test_a_job_resumed_after_its_lease_has_ended_is_displaced(tmp_path):
    holder = start_holder(tmp_path, "unshare", "--pid", "--fork", "--kill-child") if not os.geteuid() else None
    if holder is None or said(holder) != "in":
        pytest.skip("no PID namespaces of our own")
    inner = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()[0])
    os.kill(inner, signal.SIGSTOP)
    mine = RunLock()
    taken_after_a_while(mine, tmp_path)
    os.kill(inner, signal.SIGCONT)
    assert asked(holder) == "displaced"
    mine.check()
    holder.stdin.close()
    holder.wait()
    mine.check()
    assert tokens(tmp_path) == [mine.token]


def test_a_job_that_cannot_renew_its_lease_in_time_stops(tmp_path, monkeypatch):
    for module in (leases, lock):
        monkeypatch.setattr(module, "LEASE_SECONDS", 90.0)
        monkeypatch.setattr(module, "BEAT_SECONDS", 10.0)
    mine, at = RunLock(), [1000.0]
    monkeypatch.setattr(lock, "_now", lambda: at[0])
    mine.acquire(tmp_path)
    touch = os.utime

    def fails(*arguments):
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(os, "utime", fails)
    for seconds, ours in ((60, True), (79, True), (81, False), (500, False)):
        at[0] = 1000.0 + seconds
        for ask in (mine.check, mine.check_from_memory):
            if ours:
                ask()
            else:
                with pytest.raises(Displaced, match="could not be touched"):
                    ask()
    monkeypatch.setattr(os, "utime", touch)
    mine.check()  # the check proves that nobody took the directory meanwhile
    at[0] += 60
    monkeypatch.setattr(os, "utime", fails)
    mine.check_from_memory()  # the disk is not asked


def test_the_log_of_a_displaced_run_ends_where_it_was_and_its_mirror_is_gone(tmp_path):
    run = make_run(tmp_path / "run")
    first, second = RunLock(), RunLock()
    first.acquire(run.path)
    mirror = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.PIPE)
    tracker = Tracker(keeps=True, still_ours=first.check)
    try:
        with pytest.raises(Displaced), tracker:
            tracker.begin(run, 0, "none")
            tracker._mirror = mirror
            tracker.log({"event": "step", "step": 1})
            before = run.events.read_bytes()
            (run.path / LOCK / first.token).unlink()
            second.acquire(run.path)
            tracker.log({"event": "step", "step": 2})  # does not raise, since other ranks wait
            tracker.log({"event": "step", "step": 3})
            first.check()
        tracker.settle()
        assert run.events.read_bytes() == before and mirror.poll() is not None
    finally:
        mirror.kill()
    late = Tracker(keeps=True, still_ours=second.check)
    with late:
        late.begin(run, 1, "none")
    assert [event["event"] for event in read_events(run.events)] == ["start", "step", "start", "end"]
    second.release()


def test_displacement_comes_before_any_other_agreement_of_the_ranks(monkeypatch):
    heard = []

    def agreed(*flags):
        heard.append(flags)
        return tuple(flag or other for flag, other in zip(flags, others, strict=True))

    def displaced():
        raise Displaced("it is not ours")

    monkeypatch.setattr(stopping, "agreed", agreed)
    with StopSignals() as stop_signals:
        others = (False, False, False)
        assert StopRequests(stop_signals, None, True).told_to_stop_or_save() == (False, False)
        with pytest.raises(Displaced, match="it is not ours"):
            StopRequests(stop_signals, None, True, displaced).told_to_stop_or_save()
        others = (True, True, False)  # the decision of rank 0, on another rank
        with pytest.raises(Displaced):
            StopRequests(stop_signals, None, False).told_to_stop_or_save()
        others = (True, False)
        with pytest.raises(Displaced):
            StopRequests(stop_signals, None, False).leave_if_told()
        others = (False, True)
        with pytest.raises(Interrupted):
            StopRequests(stop_signals, None, False).leave_if_told()
    assert all(len(flags) in (2, 3) for flags in heard)


def test_a_displaced_job_prints_that_once_and_ends_with_code_4(capsys):
    def work():
        raise Displaced("runs/x no longer belongs to this job")

    for rank in (1, 0):
        assert attempt(work, World(rank=rank, size=2), "") == ExitCode.DISPLACED
    said = capsys.readouterr().err
    assert said.count("runs/x no longer belongs to this job") == 1 and "Traceback" not in said
