"""One job at a time in a run directory; a lock whose holder is gone does not block it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mat_ds.errors import UserError
from mat_ds.storage import lock
from mat_ds.storage.lock import LOCK, RunLock, holder_of, known_holder_of
from mat_ds.storage.owner import Fate, Owner, process_stat
from tests.support.launch import ROOT
from tests.support.locking import asked, elsewhere, leave_behind, said, start_holder, takes, tokens


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


def test_a_living_job_keeps_others_out_until_it_releases(tmp_path):
    first, folder = RunLock(), tmp_path / "new" / "run"
    first.acquire(folder)
    first.check()
    assert not takes(folder) and holder_of(folder).owner.pid == os.getpid() and holder_of(folder).alive
    first.release()
    first.release()
    assert takes(folder) and holder_of(folder) is None
    RunLock().release()  # releasing without having taken it changes nothing
    RunLock().check()


def test_a_killed_job_does_not_hold_the_lock_and_a_stopped_one_does(tmp_path):
    holder = start_holder(tmp_path)
    assert said(holder) == "in"
    holder.send_signal(signal.SIGSTOP)
    time.sleep(1)
    assert not takes(tmp_path)
    holder.kill()
    holder.wait()
    assert takes(tmp_path)


def test_a_zombie_or_another_process_with_the_number_does_not_hold_the_lock(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()
    while process_stat(child.pid)[0] != "Z":
        time.sleep(0.01)
    leave_behind(tmp_path, pid=child.pid, started=process_stat(child.pid)[1])
    assert takes(tmp_path)
    child.wait()
    leave_behind(tmp_path, pid=os.getpid(), started=1)
    assert takes(tmp_path)


def test_setting_the_clock_does_not_end_a_lease(tmp_path, monkeypatch):
    mine = RunLock()
    mine.acquire(tmp_path)
    now = time.time()
    for step in (-(10**8), 10**8):
        monkeypatch.setattr(time, "time", lambda step=step: now + step)
        os.utime(tmp_path / LOCK / mine.token, (0, time.time()))
        assert not takes(tmp_path)
        mine.check()
    # Neither does a disk or a machine whose clock is years off.
    monkeypatch.undo()
    for stamp in (1, 4 * 10**9):
        path = elsewhere(tmp_path)
        os.utime(path, (stamp, stamp))
        assert not takes(tmp_path)


def test_processes_with_different_clocks_agree_on_the_holder(tmp_path):
    faketime = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if faketime is None:
        pytest.skip("libfaketime is not installed")
    false = {"LD_PRELOAD": str(faketime), "FAKETIME": "+400d"}
    for holds, comes in (({}, false), (false, {})):
        first = start_holder(tmp_path, **holds)
        assert said(first) == "in"
        second = start_holder(tmp_path, **comes)
        assert said(second).startswith("out") and asked(first) == "ours"
        first.kill()
        for process in (first, second):
            process.wait()
        assert takes(tmp_path)


NAMESPACES = {
    "their own /proc": ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
    "the /proc of another": ("unshare", "--pid", "--fork", "--kill-child"),
}


@pytest.mark.parametrize("kind", NAMESPACES)
def test_processes_in_other_pid_namespaces_of_the_host_count_as_alive(kind, tmp_path):
    prefix = NAMESPACES[kind]
    if os.geteuid() or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no PID namespaces of our own")
    for inside, outside in ((prefix, ()), ((), prefix), (prefix, prefix)):
        first = start_holder(tmp_path, *inside)
        assert said(first) == "in"
        second = start_holder(tmp_path, *outside)
        assert said(second).startswith("out") and asked(first) == "ours"
        first.kill()
        for process in (first, second):
            process.wait()
        shutil.rmtree(tmp_path / LOCK)


def test_a_job_on_another_machine_holds_the_lock_until_its_lease_ends(tmp_path):
    path, mine = elsewhere(tmp_path), RunLock()
    assert not mine.take(tmp_path) and not mine.in_the_way.alive
    assert not takes(tmp_path)
    os.utime(path)
    with pytest.raises(UserError, match="another job uses it"):
        mine.take(tmp_path)
    assert holder_of(tmp_path).alive and known_holder_of(tmp_path)
    with pytest.raises(UserError):
        mine.take(tmp_path)
    assert taken_after_a_while(RunLock(), tmp_path / "free") < 0.5


def test_a_lease_ends_only_after_its_length_without_renewal(tmp_path):
    elsewhere(tmp_path)
    mine = RunLock()
    assert taken_after_a_while(mine, tmp_path) >= 0.45 and tokens(tmp_path) == [mine.token]
    mine.release()
    elsewhere(tmp_path)
    assert known_holder_of(tmp_path) is None and takes(tmp_path)


def test_a_pause_of_the_waiting_process_hardly_counts(tmp_path):
    elsewhere(tmp_path)
    mine = RunLock()
    assert not mine.take(tmp_path)
    time.sleep(0.8)  # as if this process or its disk had been paused
    assert not mine.take(tmp_path)


def test_only_the_same_requeued_job_waits_while_its_earlier_start_renews_the_lease(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    path, mine = elsewhere(tmp_path, slurm_job="7"), RunLock()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for _ in range(3):
        assert not mine.take(tmp_path)
        os.utime(path)
    assert taken_after_a_while(mine, tmp_path) >= 0.45
    mine.release()
    for earlier in ({"slurm_job": "8"}, {"slurm_job": "7", "slurm_restart": 1}, {"slurm_job": None}):
        path = elsewhere(tmp_path, **earlier)
        assert not mine.take(tmp_path)
        os.utime(path)
        with pytest.raises(UserError):
            mine.take(tmp_path)


def test_the_holder_renews_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    mine = RunLock()
    mine.acquire(tmp_path)
    path = tmp_path / LOCK / mine.token
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > 0
    mine.release()


def test_of_many_that_find_a_stale_lock_one_at_a_time_takes_it(tmp_path):
    leave_behind(tmp_path)
    jobs = [start_holder(tmp_path) for _ in range(5)]
    words = [said(job).split()[0] for job in jobs]
    assert sorted(words) == ["in", *["out"] * 4] and asked(jobs[words.index("in")]) == "ours"
    for job in jobs:
        job.stdin.close()
        job.wait()
    assert takes(tmp_path)


def test_processes_that_take_turns_never_hold_it_together(tmp_path):
    code = (
        "import sys; from pathlib import Path; from mat_ds.storage.lock import RunLock\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    lock = RunLock('turn.lock'); lock.wait(folder)\n"
        "    count = folder / 'count'; count.write_text(str(int(count.read_text()) + 1))\n"
        "    lock.release()\n"
    )
    (tmp_path / "count").write_text("0")
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0] * 3
    assert (tmp_path / "count").read_text() == "120" and [path.name for path in tmp_path.iterdir()] == ["count"]


def test_a_failing_disk_is_an_error_that_names_the_lock(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be taken.*Not a directory|cannot be taken.*File exists"):
        RunLock().take(tmp_path / "file")

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        RunLock().take(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_an_owner_is_read_back_as_it_was_written(monkeypatch):
    me = Owner.me()
    assert me.fate == Fate.ALIVE and Owner.read(me.as_text()) == me
    monkeypatch.setattr("mat_ds.storage.owner.place_here", lambda: "another boot")
    assert me.fate == Fate.UNKNOWN
