"""`evidence.jsonl`: a line for each finished run, and what the tuning says of them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import Trial
from benchmarks.evidence.design import TUNING_SEED, Entry
from benchmarks.evidence.tasks import TASKS

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
    ended = _tuned(records, task, arm)
    best = min(ended, key=lambda trial: ended[trial]["nll"], default=None)
    return None if best is None else (best, ended[best]["nll"])


def not_worth_running(records: Iterable[Record], task: str, arm: str) -> str | None:
    """Why an arm of a task is not run, in words, if vanilla has not learnt the task, as far as tuning says; else None."""
    least = TASKS[task].least_accuracy
    learnt = [one["accuracy"] for one in _tuned(records, task, "vanilla").values()] if least else []
    if not least or max(learnt, default=0.0) >= least or (arm == "vanilla" and not learnt):
        return None
    reached = f"reaches {max(learnt):.1f}% in its trials" if learnt else "has not ended its trials"
    return f"{task}: vanilla {reached}, and {least:g}% are asked of it"


def _tuned(records: Iterable[Record], task: str, arm: str) -> dict[Trial, Record]:
    """What each trial of an arm found; empty before all of them ended."""
    found = {one["name"]: one["endpoints"] for one in records}
    trials = TASKS[task].trials(arm)
    ended = {trial: found[name] for trial in trials if (name := Entry(task, arm, TUNING_SEED, trial).name) in found}
    return ended if len(ended) == len(trials) else {}
