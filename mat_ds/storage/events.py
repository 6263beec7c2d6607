"""The events of a run, one JSON object per line: what everything else that looks at a run is made from."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import open_regular

Record = dict[str, Any]

# Bytes that wait where the disk is full: the records of some thousand steps.
BUFFER = 1 << 20


class EventLog:
    """Appends to `events.jsonl`, flushed line by line; nothing in it is ever changed or removed.

    What a full disk refuses waits in memory for the next attempt.

    Args:
        path: the file.
        step: outer steps already done; what an earlier life logged beyond them will be logged again.
    """

    def __init__(self, path: Path, step: int):
        self._file = path.open("a+b", buffering=BUFFER)
        _end_the_last_line(self._file)
        self.log({"event": "start", "step": step})

    def log(self, record: Record) -> None:
        """One record; it gets the time under `time`, in seconds since 1970. Raises `OSError` if it cannot be written yet."""
        self._file.write(json.dumps({**record, "time": round(time.time(), 3)}).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def abandon(self) -> None:
        """Closes it without what waits: the file is another's by now."""
        file: Any = self._file
        file.raw.close()


def _end_the_last_line(file: Any) -> None:
    """A line that a crash cut short must not swallow the next one."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def read_events(path: Path) -> list[Record]:
    """All that happened to a run, as if it had never been interrupted, in order.

    Returns:
        Records with `event`, `step` and `time`; of a step that was made twice, because a run was interrupted after its last
        checkpoint, those of the later life. Lines that a crash cut short are left out. Empty where there is no file.

    Raises:
        UserError: if there is one that cannot be read, or something else in its place.
    """
    return as_one_life(records_in(path))


def records_in(path: Path) -> Iterable[Record]:
    """The records of a log as they were written, of steps that were made twice both; raises as `read_events`."""
    if not os.path.lexists(path):
        return ()
    try:
        with open_regular(path) as file:
            return parse_event(file.read())
    except OSError as error:
        fix = "mend the disk or the permissions, or leave this run out"
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", fix)) from None


def parse_event(text: bytes) -> Iterable[Record]:
    """The records of whole lines."""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if is_event(record):
            yield record


def is_event(record: Any) -> bool:
    """Whether it says what happened, and at which outer step."""
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        return False
    step = record.get("step")
    return isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**63


def as_one_life(records: Iterable[Record]) -> list[Record]:
    """Without what a later life of the run has made again."""
    kept: list[Record] = []
    for record in records:
        if record["event"] == "start":
            kept = [earlier for earlier in kept if earlier["event"] == "start" or earlier["step"] <= record["step"]]
        kept.append(record)
    return kept
