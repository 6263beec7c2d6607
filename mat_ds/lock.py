"""One job at a time in a run directory: a file that says who is in it, and how to tell that he has gone."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from mat_ds.errors import Problem, UserError

LOCK = "run.lock"
# How often the holder says that it is still there, and after how long a silence one on another machine is taken for dead.
BEAT_SECONDS, SILENCE_SECONDS = 20.0, 300.0
SETTLE_SECONDS = 0.5


class RunLock:
    """Held by rank 0 from before the first file of a run is written until after the last.

    A lock is stale if its holder has gone: the process, where it ran on this machine; where it ran on another, if it is an
    earlier start of this same SLURM job, or has been silent for five minutes by the disk's own clock.

    Args:
        name: of the file; a folder may have several kinds of holders.
    """

    def __init__(self, name: str = LOCK) -> None:
        self.folder: Path | None = None
        self._name = name
        self._beat = threading.Event()

    def acquire(self, folder: Path) -> None:
        """Takes the lock of a run directory, making the directory if need be.

        Raises:
            UserError: if another job is in it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock, cleared, me = folder / self._name, False, _me()
        while not _create(lock, json.dumps(me)):
            if holder := _living(lock, me):
                raise _taken(lock, holder)
            _clear(lock, me["token"])
            cleared = True
        if cleared:
            # Whoever found the same stale lock at the same moment may have cleared ours.
            time.sleep(SETTLE_SECONDS)
            if (holder := _read(lock)).get("token") != me["token"]:
                raise _taken(lock, holder)
        self.folder = folder
        threading.Thread(target=self._keep_beating, args=(lock,), daemon=True).start()

    def _keep_beating(self, lock: Path) -> None:
        while not self._beat.wait(BEAT_SECONDS):
            try:
                os.utime(lock)
            except OSError:  # the disk may come back
                continue

    def release(self) -> None:
        """Gives the lock back, if it was taken."""
        self._beat.set()
        if self.folder:
            (self.folder / self._name).unlink(missing_ok=True)


def holder_of(folder: Path, name: str = LOCK) -> dict[str, Any] | None:
    """Whose training, or other job by the name of its lock, is in a run directory, by `host`, `pid` and `since`, if it is still
    there."""
    lock = folder / name
    return _living(lock, _me()) if lock.exists() else None


def _me() -> dict[str, Any]:
    """What this process writes into a lock."""
    return {
        "host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"), "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", 0)), "token": uuid.uuid4().hex,
    }  # fmt: skip


def _create(lock: Path, text: str) -> bool:
    """Writes a file that must not be there yet."""
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _clear(lock: Path, token: str) -> None:
    """Takes a stale lock away, by a name of one's own so that only one of several does."""
    aside = lock.with_name(f".{lock.name}.{token}")
    try:
        lock.rename(aside)
        aside.unlink()
    except FileNotFoundError:
        pass


def _read(lock: Path) -> dict[str, Any]:
    """What a lock says; of one that is just being written or cleared, that nothing is known."""
    try:
        return dict(json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {"pid": "unknown", "host": "unknown", "since": "just now"}


def _living(lock: Path, me: dict[str, Any]) -> dict[str, Any] | None:
    """Who holds a lock, if he is still there."""
    holder = _read(lock)
    if holder["host"] == me["host"]:
        return holder if _runs(holder) else None
    requeued = me["slurm_job"] is not None and holder.get("slurm_job") == me["slurm_job"]
    if requeued and holder.get("slurm_restart", 0) < me["slurm_restart"]:
        return None
    return holder if _silence(lock, me["token"]) < SILENCE_SECONDS else None


def _silence(lock: Path, token: str) -> float:
    """Seconds since a lock was touched, by the clock of the disk it lies on."""
    probe = lock.with_name(f".{lock.name}.{token}")
    probe.touch()
    try:
        return probe.stat().st_mtime - lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink()


def _runs(holder: dict[str, Any]) -> bool:
    """Whether a process of this machine is still the one that took the lock, and more than a number waiting to be read."""
    try:
        process = psutil.Process(holder["pid"])
        return abs(process.create_time() - holder["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _taken(lock: Path, holder: dict[str, Any]) -> UserError:
    return UserError(Problem(
        "output_dir", str(lock.parent), "another job is in it: process {pid} on {host} since {since}".format(**holder),
        f"wait for it or stop it; if it is gone for sure, delete {lock}",
    ))  # fmt: skip
