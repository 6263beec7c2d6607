"""A process that takes a stale lock, or the lock's late owner, may be paused before any disk call for any time: never do two
processes hold the lock, and neither undoes what others did meanwhile."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mat_ds.errors import Displaced, UserError
from mat_ds.storage import leases
from mat_ds.storage.lock import LOCK, RunLock
from tests.support.launch import ROOT
from tests.support.locking import as_json, before_call, elsewhere, leave_behind, said, start_holder, tokens


def tries(mine, folder):
    with contextlib.suppress(UserError):
        return mine.take(folder)
    return False


def holds(mine):
    """Whether a job with this lock would write to the run directory."""
    try:
        mine.check()
    except Displaced:
        return False
    return mine.folder is not None


def comes_and_goes(folder):
    mine = RunLock()
    if tries(mine, folder):
        mine.release()


def stays(other, folder):
    tries(other, folder)


@pytest.mark.parametrize("left", ["nothing", "a dead job", "an empty folder", "a file"])
@pytest.mark.parametrize("other_goes", [True, False])
def test_taking_a_stale_lock_can_be_paused_before_any_disk_call_without_two_holders(left, other_goes, tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)  # a lease without a known process ends at once
    for number in range(1, 1000):
        folder, finder, other = tmp_path / str(number), RunLock(), RunLock()
        folder.mkdir()
        if left == "a dead job":
            leave_behind(folder)
        elif left == "an empty folder":
            (folder / LOCK).mkdir()
        elif left == "a file":
            (folder / LOCK).write_text("{")
        happens = (lambda folder=folder: comes_and_goes(folder)) if other_goes else lambda o=other, f=folder: stays(o, f)
        with before_call(number, happens) as calls:
            tries(finder, folder)
        found = [each.token for each in (finder, other) if holds(each)]
        assert len(found) == 1 and tokens(folder) == found, (number, calls[:number])
        for each in (finder, other):
            each.release()
        assert not tokens(folder)
        if len(calls) < number:
            break
    assert number > 5


def test_a_late_owners_release_or_check_can_be_paused_before_any_disk_call_without_harm_to_its_successor(tmp_path):
    for ask in (RunLock.release, RunLock._renew, holds):
        for number in range(1, 1000):
            folder, late, other = tmp_path / f"{ask.__name__}-{number}", RunLock(), RunLock()
            late.acquire(folder)

            def taken_over(folder=folder, late=late, other=other):
                (folder / LOCK / late.token).unlink(missing_ok=True)
                other.acquire(folder)

            with before_call(number, taken_over) as calls:
                ask(late)
            if len(calls) < number:
                break
            other.check()
            assert tokens(folder) == [other.token] and (ask == RunLock.release or not holds(late))
            assert as_json(folder / LOCK / other.token)["pid"] == os.getpid()
            late.release()
            other.check()
            other.release()
        assert number > 1


FINDER = """
import os, signal, sys
from pathlib import Path
from mat_ds.storage import leases, lock
from mat_ds.errors import UserError
leases.LEASE_SECONDS = lock.LEASE_SECONDS = 0.0
rename, unlink = Path.rename, Path.unlink
def stopped(original):
    def stops(self, *arguments, **options):
        Path.rename, Path.unlink = rename, unlink
        os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, *arguments, **options)
    return stops
if sys.argv[2] == "clears":
    Path.unlink = stopped(unlink)
else:
    Path.rename = stopped(rename)
try:
    print(lock.RunLock().take(Path(sys.argv[1])), flush=True)
except UserError:
    print("out", flush=True)
"""


@pytest.mark.parametrize("step", ["clears", "enters"])
def test_a_process_stopped_while_taking_the_lock_lets_another_take_it_and_stays_out(step, tmp_path):
    stale = elsewhere(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    finder = subprocess.Popen([sys.executable, "-c", FINDER, str(tmp_path), step], env=env, text=True, stdout=subprocess.PIPE)
    while psutil.Process(finder.pid).status() != psutil.STATUS_STOPPED:
        assert finder.poll() is None
        time.sleep(0.02)
    stale.unlink(missing_ok=True)
    holder = start_holder(tmp_path)
    assert said(holder) == "in"
    finder.send_signal(signal.SIGCONT)
    assert finder.communicate(timeout=60)[0] == "out\n"
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert said(holder) == "ours"
    holder.stdin.close()
    assert holder.wait(30) == 0 and not (tmp_path / LOCK).exists()


def test_before_call_pauses_at_the_given_call(tmp_path):
    with before_call(10**9, lambda: None) as calls:
        mine = RunLock()
        mine.acquire(tmp_path)
        mine.release()
    assert {"mkdir", "write_bytes", "rename", "unlink", "rmdir"} <= set(calls)
