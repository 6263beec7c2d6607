"""Mutual exclusion between the workers of a sweep, which may run on several nodes that share a disk."""

from __future__ import annotations

from pathlib import Path

from mat_ds.storage.lock import RunLock


class Turn:
    """A re-entrant lock, held for seconds at most, for claiming a run of a sweep and for writing the sweep's own files.

    Args:
        folder: the folder of the sweep.
    """

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
