"""Looking at a lock: the leases in it, whose they are, and for how long nothing has moved there.

A lease whose owner is neither proved to be there nor proved to be gone is watched. The clocks of this machine, of the other and
of the disk may all be wrong or be set, so nothing is compared but what the file's entry looks like from one look to the next,
and time is counted by this process's own monotonic clock, a little at a time, so that a pause of this process or of the disk
counts for next to nothing.
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

# How often a holder says that it is there; for how long a lease must look the same, look after look, to be taken for one that
# nobody holds any more: longer than network disks show what is no longer so.
BEAT_SECONDS, LEASE_SECONDS = 10.0, 90.0
# Seconds between two looks; what lies between them counts for twice as much at most.
LOOK = 1.0
LARGEST = 4096

_Looks = tuple[int, ...]


@dataclass
class _Watch:
    """What is known of a lease from having looked at it before."""

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


# By where the lease is: a later look, by whatever part of the program, goes on from the earlier ones.
_watched: dict[str, _Watch] = {}


@dataclass(frozen=True)
class Lease:
    """One lease, as it looks now.

    Attributes:
        path: of its file; of the lock itself, where that is none of ours.
        owner: who made it; None: it does not say.
        fate: what is known of that process.
        silent: seconds for which it has been seen not to change.
        beats: whether it was seen to change.
    """

    path: Path
    owner: Owner | None
    fate: Fate
    silent: float
    beats: bool

    @property
    def expired(self) -> bool:
        """Whether nobody holds it any more."""
        return self.fate == Fate.GONE or (self.fate == Fate.UNKNOWN and self.silent >= LEASE_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether its owner is known to be there."""
        return self.fate == Fate.ALIVE or (self.beats and not self.expired)

    def __str__(self) -> str:
        if self.owner is None:
            return f"somebody of whom {self.path} does not tell"
        return f"process {self.owner.pid} on {self.owner.host} since {self.owner.since}"


def leases_in(lock: Path) -> list[Lease]:
    """The leases in a lock; none where there is no lock, or it is empty."""
    return [lease for path in _entries(lock) if (lease := _look(path))]


def _entries(lock: Path) -> Iterator[Path]:
    try:
        folder = os.open(lock, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError:  # not made by this program, or out of its reach
        yield lock
        return
    try:
        names = os.listdir(folder)
    finally:
        os.close(folder)
    yield from (lock / name for name in sorted(names))


def _look(path: Path) -> Lease | None:
    """A lease; None if it is gone by now."""
    try:
        text, status = _read(path)
    except FileNotFoundError:
        _watched.pop(str(path), None)
        return None
    looks = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
    watch = _watched.setdefault(str(path), _Watch(looks, time.monotonic()))
    watch.look(looks)
    owner = Owner.read(text)
    return Lease(path, owner, owner.fate if owner else Fate.UNKNOWN, watch.silent, watch.beats)


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """What stands in a file of a reasonable size and kind, and its entry, as fresh as opening it makes that."""
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
