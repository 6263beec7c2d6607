"""One at a time, among workers on many nodes that share a disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mat_ds.storage.lock import RunLock

TURN = "turn.lock"


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Within it no other worker takes a run of the folder or writes the folder's own files; for seconds at most."""
    lock = RunLock(TURN)
    lock.wait(folder)
    try:
        yield
    finally:
        lock.release()
