"""The protocol of a tracker, and the one that always runs: a line of JSON per record in the run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from mat_ds.rundir import write_text

Record = dict[str, Any]


class Tracker(Protocol):
    """Takes the records of a run; only rank 0 has one that does anything."""

    def log(self, record: Record) -> None:
        """One record, with the outer step it belongs to under `step`."""

    def close(self) -> None:
        """Nothing comes after this."""


class NullTracker:
    """The tracker of all ranks but the first."""

    def log(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass


class JsonlTracker:
    """Appends to `metrics.jsonl`, flushed line by line.

    Args:
        path: the file.
        resume_step: outer steps already done; what an interrupted run logged beyond them is dropped, since it will be
            logged again.
    """

    def __init__(self, path: Path, resume_step: int):
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) <= resume_step]
            write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def log(self, record: Record) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    """The step of a line; a line that a crash cut short belongs to no step that is kept."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
