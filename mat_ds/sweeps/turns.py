"""One at a time, among workers on many nodes that share a disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Within it no other worker takes a run of the folder or writes the folder's own files; for seconds at most, as one that
    does not move for half a minute is taken for dead."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = JournalFileOpenLock(str(folder / "turn"))
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # another took it away
            lock.release()
