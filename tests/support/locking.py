"""Locks left by other jobs and machines, and hooks before any call that accesses the disk."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from mat_ds.errors import UserError
from mat_ds.storage.lock import LOCK, RunLock
from mat_ds.storage.owner import Owner
from tests.support.launch import ROOT

# Takes the lock, prints that, and releases it when it reads a line.
HOLDER = """
import sys
from pathlib import Path
from mat_ds.errors import Displaced, UserError
from mat_ds.storage.lock import RunLock
lock = RunLock()
try:
    lock.acquire(Path(sys.argv[1]))
except UserError as error:
    print("out", " ".join(str(error).split()), flush=True)
    sys.exit()
print("in", flush=True)
for line in sys.stdin:
    try:
        lock.check()
        print("ours", flush=True)
    except Displaced as error:
        print("displaced", flush=True)
lock.release()
"""
CALLS = [(os, name) for name in ("open", "read", "listdir", "lstat", "utime", "fstat")]
CALLS += [(Path, name) for name in ("mkdir", "rename", "unlink", "rmdir", "write_bytes")]


def start_holder(folder, *prefix, **env):
    """A process that takes the lock of a folder and prints what it does line by line."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLDER, str(folder)],
        cwd=ROOT,
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def said(holder):
    return holder.stdout.readline().strip()


def asked(holder):
    """Sends a holder a line; returns what it then prints about its lock."""
    holder.stdin.write("\n")
    holder.stdin.flush()
    return said(holder)


def leave_behind(folder, lock=LOCK, **changes):
    """A lock left by another job: by default on this machine, of a process number that is not in use."""
    shutil.rmtree(folder / lock, ignore_errors=True)
    token = uuid.uuid4().hex
    (folder / lock).mkdir(parents=True)
    owner = replace(Owner.me(), **{"pid": 2**22 + 1, "since": "then", **changes})
    (folder / lock / token).write_bytes(owner.as_text())
    return folder / lock / token


def elsewhere(folder, **changes):
    """A lock of a job on another machine."""
    return leave_behind(folder, host="elsewhere", place="another boot", **changes)


def takes(folder):
    """Whether the lock can be taken at once; it is then released and leaves no file."""
    mine = RunLock()
    try:
        mine.acquire(folder)
    except UserError as error:
        assert "another job uses it" in str(error) and str(folder / LOCK) in str(error)
        return False
    mine.check()
    mine.release()
    assert not list(folder.iterdir())
    return True


def tokens(folder):
    return sorted(path.name for path in (folder / LOCK).iterdir()) if (folder / LOCK).exists() else []


@contextlib.contextmanager
def before_call(number, happens):
    """A context that calls `happens` before disk call number `number`, as if the caller had been paused there; yields a
    list with an entry per call. Calls by other threads, which renew leases, are not counted."""
    calls, caller = [], threading.get_ident()
    with contextlib.ExitStack() as patched:
        for owner, name in CALLS:
            original = getattr(owner, name)

            def called(*arguments, original=original, **options):
                if threading.get_ident() == caller:
                    calls.append(original.__name__)
                    if len(calls) == number:
                        happens()
                        calls.extend([""] * 1000)  # its own calls are not counted
                return original(*arguments, **options)

            patched.enter_context(patch.object(owner, name, called))
        yield calls


def as_json(path):
    return json.loads(path.read_text())
