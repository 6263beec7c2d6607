"""Reads the leases in a lock: who owns them, and how long they have not changed.

If an owner can be proved neither alive nor gone, its lease is watched. The clocks of this machine, of the owner's and of the
disk may be wrong. So only the lease's directory entry is compared between two looks, and time is counted by this process's
monotonic clock in small steps, so that a pause of this process or the disk counts for almost nothing.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mat_ds.storage.owner import Fate, Owner

# A holder touches its lease every BEAT_SECONDS. A lease unchanged for LEASE_SECONDS is expired; that is longer than network
# file systems cache stale attributes.
BEAT_SECONDS, LEASE_SECONDS = 10.0, 90.0
# Seconds between two looks; a longer gap counts for at most twice this.
LOOK = 1.0
LARGEST = 4096

_Looks = tuple[int, ...]


@dataclass
class _Watch:
    """Earlier observations of a lease."""

    looks: _Looks
    at: float
    silent: float = 0.0
    beats: bool = False

    def look(self, looks: _Looks) -> None:
        now = time.monotonic()
        if looks != self.looks:
            self.looks, self.silent, self.beats = looks, 0.0, True
        else:
            self.silent += min(max(now - self.at, 0.0), 2 * LOOK)
        self.at = now


# Observations by path, so that a later look from anywhere in the program continues the earlier ones.
_watched: dict[str, _Watch] = {}


@dataclass(frozen=True)
class Lease:
    """One lease, as observed now.

    Attributes:
        path: of its file; of the lock itself if this program did not make it.
        owner: who made it; None if it cannot be read.
        fate: what is known of the owner's process.
        silent: seconds during which it was observed not to change.
        beats: whether it was observed to change.
    """

    path: Path
    owner: Owner | None
    fate: Fate
    silent: float
    beats: bool

    @property
    def expired(self) -> bool:
        """Whether the owner is gone."""
        return self.fate == Fate.GONE or (self.fate == Fate.UNKNOWN and self.silent >= LEASE_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the owner is known to be alive."""
        return self.fate == Fate.ALIVE or (self.beats and not self.expired)

    def __str__(self) -> str:
        if self.owner is None:
            return f"somebody of whom {self.path} does not tell"
        return f"process {self.owner.pid} on {self.owner.host} since {self.owner.since}"


def leases_in(lock: Path) -> list[Lease]:
    """The leases in a lock; empty if the lock does not exist or is empty."""
    return [lease for path in _lease_files(lock) if (lease := _look(path))]


def _lease_files(lock: Path) -> Iterator[Path]:
    try:
        folder = os.open(lock, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:  # not made by this program, or not readable
        yield lock
        return
    try:
        names = os.listdir(folder)
    finally:
        os.close(folder)
    yield from (lock / name for name in sorted(names))


def _look(path: Path) -> Lease | None:
    """Observes a lease; None if it no longer exists."""
    try:
        text, status = _read_lease(path)
    except FileNotFoundError:
        _watched.pop(str(path), None)
        return None
    looks = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
    watch = _watched.setdefault(str(path), _Watch(looks, time.monotonic()))
    watch.look(looks)
    owner = Owner.read(text)
    return Lease(path, owner, owner.fate if owner else Fate.UNKNOWN, watch.silent, watch.beats)


def _read_lease(path: Path) -> tuple[bytes, os.stat_result]:
    """The contents of a small regular file (else empty), and its status; opening it refreshes the status over NFS."""
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return b"", status
    with suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.read(handle, LARGEST), os.fstat(handle)
        finally:
            os.close(handle)
    return b"", status
