"""The event log of a run, one JSON object per line; everything else that describes a run is derived from it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import open_regular

Record = dict[str, Any]

# Bytes buffered while the disk is full: the records of some thousand steps.
BUFFER = 1 << 20


class EventLog:
    """Appends to `events.jsonl`, flushing each line; records are never changed or removed.

    Records that a full disk refuses stay in memory until the next attempt.

    Args:
        path: the file.
        step: outer steps done so far. Records of later steps, written before an interruption, will be logged again.
    """

    def __init__(self, path: Path, step: int):
        self._file = path.open("a+b", buffering=BUFFER)
        _end_the_last_line(self._file)
        self.log({"event": "start", "step": step})

    def log(self, record: Record) -> None:
        """Writes one record, with the time in seconds since 1970 under `time`. Raises `OSError` if it cannot be written yet.

        A number that is not finite becomes null, since JSON has no other name for it.
        """
        whole = _finite({**record, "time": round(time.time(), 3)})
        self._file.write(json.dumps(whole, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """Closes the file without writing buffered records, because another job owns it now."""
        file: Any = self._file
        file.raw.close()


def _finite(value: Any) -> Any:
    """A value with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _end_the_last_line(file: Any) -> None:
    """Completes a line that a crash cut short, so that the next record starts on a line of its own."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def read_events(path: Path) -> list[Record]:
    """The events of a run in order, as if it had never been interrupted.

    Returns:
        Records with `event`, `step` and `time`. If a step was run twice, because the run was interrupted after its last
        checkpoint, only the second run's records are kept. Incomplete lines are dropped. Empty if there is no file.

    Raises:
        UserError: if the file cannot be read, or is not a regular file.
    """
    return as_one_life(records_in(path))


def records_in(path: Path) -> Iterable[Record]:
    """All records of a log as written, also those of repeated steps; raises as `read_events`."""
    if not os.path.lexists(path):
        return ()
    try:
        with open_regular(path) as file:
            return parse_event(file.read())
    except OSError as error:
        fix = "mend the disk or the permissions, or leave this run out"
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", fix)) from None


def parse_event(text: bytes) -> Iterable[Record]:
    """Yields the valid records in the text of a log."""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if is_event(record):
            yield record


def is_event(record: Any) -> bool:
    """Whether a record has an event name and a valid step."""
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        return False
    step = record.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63


def as_one_life(records: Iterable[Record]) -> list[Record]:
    """Drops the records of steps that were repeated after a restart."""
    kept: list[Record] = []
    for record in records:
        if record["event"] == "start":
            kept = [earlier for earlier in kept if earlier["event"] == "start" or earlier["step"] <= record["step"]]
        kept.append(record)
    return kept
