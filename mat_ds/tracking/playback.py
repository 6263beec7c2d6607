"""Reads the events of a run in order, also while they are being written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mat_ds.storage.events import Record, is_event
from mat_ds.storage.reading import open_regular
from mat_ds.tracking.content import essence

# Seconds since 1970 (year 5138): larger times overflow MLflow's 64-bit milliseconds.
LATEST = 1e11


class Playback:
    """Reads an `events.jsonl` from its first line; each `read` continues where the last one stopped.

    A step that an interrupted run repeated is yielded once, unless its numbers changed (for example because more epochs
    stretch the learning rate schedule): MLflow cannot delete points, and would show it twice.

    Attributes:
        last: the last start or end event.
        latest: the last event.
    """

    def __init__(self, path: Path):
        self._path, self._place, self._furthest = path, 0, 0
        self._again: dict[tuple[str, int], Record] = {}
        self.last: Record | None = None
        self.latest: Record | None = None

    def read(self) -> Iterator[tuple[int, Record]]:
        """Yields new records, each with the file offset after it. An incomplete last line may still be being written."""
        for before, behind, record in _records(self._path, self._place):
            self._place = behind
            if record["event"] == "start" and record["step"] < self._furthest:
                made = _records(self._path, 0, before)
                self._again = {_key(r): essence(r) for _, _, r in made if r["step"] > record["step"]}
            if record["event"] in ("start", "end"):
                self.last = record
            self.latest = record
            self._furthest = max(self._furthest, record["step"])
            if self._again.get(_key(record)) != essence(record) or record["event"] in ("start", "end"):
                yield behind, record


def _key(record: Record) -> tuple[str, int]:
    return record["event"], record["step"]


def _records(path: Path, start: int, stop: int | None = None) -> Iterator[tuple[int, int, Record]]:
    """Yields (offset before, offset after, record); skips incomplete lines."""
    with open_regular(path) as file:
        place = file.seek(start)
        for line in file:
            if not line.endswith(b"\n") or place == stop:
                return
            before, place = place, place + len(line)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if is_whole(record):
                yield before, place, record


def is_whole(record: Any) -> bool:
    """Whether a record has event, step and a time that MLflow can store."""
    return is_event(record) and isinstance(time := record.get("time"), (int, float)) and 0 <= time < LATEST
