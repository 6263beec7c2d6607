"""`evidence.jsonl`: a line for each finished run, and what the tuning says of them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.evidence.design import TASKS, TUNING_SEED, Entry, Trial

FILE = Path(__file__).parents[1] / "evidence.jsonl"
Record = dict[str, Any]


def read_records(path: Path = FILE) -> list[Record]:
    """The finished runs; a line that was cut off by a crash is none."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.split("\n") if line]


def append(record: Record, path: Path = FILE) -> None:
    """Adds a record, also while another process does; what a crash left of a line is cut off first."""
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")


def chosen(records: Iterable[Record], task: str, arm: str) -> tuple[Trial, float] | None:
    """The trial with the least NLL on what tuning held out, and that NLL; None before all trials ended."""
    found = {one["name"]: one["endpoints"]["nll"] for one in records}
    trials = {trial: found.get(Entry(task, arm, TUNING_SEED, trial).name) for trial in TASKS[task].trials(arm)}
    ended = {trial: nll for trial, nll in trials.items() if nll is not None}
    best = min(ended, key=lambda trial: ended[trial]) if len(ended) == len(trials) else None
    return None if best is None else (best, ended[best])
