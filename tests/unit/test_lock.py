"""One job at a time in a run directory, and no run lost to a lock whose holder is gone."""

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from mat_ds import lock
from mat_ds.errors import UserError
from mat_ds.lock import LOCK, RunLock


def left_behind(folder, **changes):
    """A lock as another job left it."""
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time(), "since": "then",
          "slurm_job": None, "slurm_restart": 0, "token": "other"}  # fmt: skip
    (folder / LOCK).write_text(json.dumps({**me, **changes}))


def takes(folder):
    mine = RunLock()
    try:
        mine.acquire(folder)
    except UserError as error:
        assert "another job is in it" in str(error) and str(folder / LOCK) in str(error)
        return False
    mine.release()
    assert not list(folder.iterdir())
    return True


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)
    for variable in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(variable, raising=False)


def test_a_living_job_keeps_others_out_until_it_releases(tmp_path):
    first = RunLock()
    first.acquire(tmp_path / "new" / "run")
    assert not takes(tmp_path / "new" / "run")
    first.release()
    assert takes(tmp_path / "new" / "run")
    RunLock().release()  # of one that never took anything


def test_a_process_that_is_gone_or_whose_number_went_to_another_holds_nothing(tmp_path):
    left_behind(tmp_path, pid=2**22 + 1)
    assert takes(tmp_path)
    left_behind(tmp_path, started=time.time() - 10**6)
    assert takes(tmp_path)


def test_a_job_on_another_host_is_alive_while_it_beats(tmp_path):
    left_behind(tmp_path, host="elsewhere")
    assert not takes(tmp_path)
    os.utime(tmp_path / LOCK, (0, time.time() - 2 * lock.SILENCE_SECONDS))
    assert takes(tmp_path)


def test_a_requeued_job_takes_the_lock_of_its_own_earlier_start(tmp_path, monkeypatch):
    left_behind(tmp_path, host="elsewhere", slurm_job="7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not takes(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert takes(tmp_path)
    left_behind(tmp_path, host="elsewhere", slurm_job="8")
    assert not takes(tmp_path)


def test_a_lock_that_is_being_written_is_a_lock(tmp_path):
    (tmp_path / LOCK).touch()
    assert not takes(tmp_path)


def test_the_holder_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    mine = RunLock()
    mine.acquire(tmp_path)
    os.utime(tmp_path / LOCK, (0, 0))
    deadline = time.monotonic() + 10
    while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / LOCK).stat().st_mtime > 0
    mine.release()


def test_of_many_that_find_a_stale_lock_one_at_a_time_gets_in(tmp_path):
    left_behind(tmp_path, pid=2**22 + 1)
    code = (
        "import sys, time; from pathlib import Path; from mat_ds.lock import RunLock; from mat_ds.errors import UserError\n"
        "lock = RunLock()\n"
        "try: lock.acquire(Path(sys.argv[1])); time.sleep(3); lock.release(); print('in')\n"
        "except UserError: print('out')"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert sorted(job.communicate(timeout=60)[0].strip() for job in jobs) == ["in", *["out"] * 5]
