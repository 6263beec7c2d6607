"""One at a time, among workers on many nodes that share a disk."""

from __future__ import annotations

from pathlib import Path

from mat_ds.storage.lock import RunLock


class Turn:
    """Whoever has it takes a run of a folder, or writes the folder's own files; for seconds at most, and again within it."""

    def __init__(self, folder: Path):
        self._folder, self._lock, self._depth = folder, RunLock("turn.lock"), 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._lock.wait(self._folder)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._lock.release()
