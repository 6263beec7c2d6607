"""A line for each run of a folder: what it was, its scores, its time, how it stands. Imports no torch."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mat_ds.config.names import name_of_task
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, printable
from mat_ds.storage.events import Record, read_events
from mat_ds.storage.leases import LEASE_SECONDS, leases_in
from mat_ds.storage.lock import LOCK
from mat_ds.storage.own_files import file_problems
from mat_ds.storage.owner import Fate
from mat_ds.storage.progress import Progress, last_half
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory, run_folders

READ = ("config.yaml", "events.jsonl", "results.json", "interrupted.json")
HEAD = ("run", "task", "method", "last", "best", "median", "time", "status")
# Columns of the whole table; what the name of a task and the status may take of it, and what a run's name has in any case.
WIDTH, TASK, STATUS, SHORTEST = 80, 10, 17, 9
# Columns of a score, and between two columns.
SCORE, GAP = 6, 2


@dataclass(frozen=True)
class RunLine:
    """What is shown of a run; None where it is not known.

    Attributes:
        run: its folder, below the one asked for.
        last, best, median: of its scores; the median is of the last half of its evaluations.
        seconds: of training.
        status: finished, failed, killed, interrupted, running or unfinished, and how far it is; or what is wrong with it.
        began: when, in seconds since 1970.
    """

    run: str
    task: str | None = None
    method: str | None = None
    last: float | None = None
    best: float | None = None
    median: float | None = None
    seconds: float | None = None
    status: str = ""
    began: float = 0.0


def run_lines(path: Path) -> list[RunLine]:
    """The runs in a folder, oldest first; one that cannot be read is a line that says so.

    Raises:
        UserError: if there is none.
    """
    folders = list(run_folders(path))
    if not folders:
        reason = "has no run (a folder with config.yaml and environment.json)" if path.is_dir() else "there is no such folder"
        raise UserError(Problem("FOLDER", str(path), reason, "pass runs/<run>, or a folder of such folders"))
    lines = []
    for folder in folders:
        name = folder.relative_to(path).as_posix() if folder != path else folder.resolve().name
        try:
            lines.append(_line(name, RunDirectory(folder)))
        except Exception as error:  # a stranger's files may hold anything
            reason = error.problems[0].reason if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            lines.append(RunLine(name, status=f"cannot be read: {reason}"))
    return sorted(lines, key=lambda line: (line.began, line.run))


def _line(name: str, run: RunDirectory) -> RunLine:
    problems = list(file_problems(run.path, READ))
    if problems:
        raise UserError(*problems)
    config, events = read_yaml(run.config), read_events(run.events)
    results = read_json(run.results, "restore it") if run.results.exists() else {}
    evaluations = [
        record for record in events if record["event"] == "evaluation" and isinstance(record.get("score"), int | float)
    ]
    step = max((record["step"] for record in events), default=0)
    scores = [float(record["score"]) for record in evaluations]
    middle = median(last_half(evaluations, evaluations[-1]["step"])) if scores else None
    return RunLine(
        run=name,
        task=str(results.get("task") or name_of_task(str(config["task"]))),
        method=str(config["method"]["name"]),
        last=scores[-1] if scores else None,
        best=float(Progress(evaluations=evaluations).best["score"]) if scores else None,
        median=middle,
        seconds=_seconds(events, results, config["train"]["batch_size"]),
        status=_status(run, events, results, step, config["train"].get("max_steps")),
        began=float(events[0]["time"]) if events else 0.0,
    )


def _seconds(events: list[Record], results: dict[str, Any], batch: int) -> float | None:
    """Seconds spent in outer steps."""
    speeds = [record.get("samples_per_second", 0) for record in events if record["event"] == "step"]
    seconds = float(results.get("seconds") or sum(batch / speed for speed in speeds if speed > 0))
    return seconds if 0 < seconds < math.inf else None


def _status(run: RunDirectory, events: list[Record], results: dict[str, Any], step: int, planned: int | None) -> str:
    last = next((record for record in reversed(events) if record["event"] in ("start", "end")), {"event": None})
    told = str(last["status"]).lower() if last["event"] == "end" and "status" in last else ""
    if told == "finished" or (not told and step and results.get("steps") == step):
        return "finished"
    at = f" {step}/{planned}" if planned else f" at {step}"
    if run.interrupted.exists():
        return f"interrupted{at}"
    if told:
        return f"{told}{at}"
    return f"running{at}" if _is_held(run.path / LOCK) else f"unfinished{at}"


def _is_held(lock: Path) -> bool:
    """Whether a job is at work in a run directory; on another machine, whether its lease is fresh by our clock."""
    for lease in leases_in(lock):
        with suppress(OSError):
            fresh = time.time() - lease.path.stat().st_mtime < LEASE_SECONDS
            if lease.alive or (lease.fate is Fate.UNKNOWN and fresh):
                return True
    return False


def as_rows(lines: list[RunLine]) -> list[list[Any]]:
    """The lines as a table with a head, of at most 80 columns unless a run cannot be read."""
    words = [[_word(line.task)[:TASK], _word(line.method), _duration(line.seconds), printable(line.status)] for line in lines]
    widths = [
        max(len(name), *map(len, column)) for name, column in zip(HEAD[1:3] + HEAD[6:], zip(*words, strict=True), strict=True)
    ]
    rest = sum(widths[:3]) + min(widths[3], STATUS) + 3 * SCORE + GAP * (len(HEAD) - 1)
    room = max(SHORTEST, WIDTH - rest)
    rows = [
        [_abridged(_word(line.run), room), task, method, line.last, line.best, line.median, spent, status]
        for line, (task, method, spent, status) in zip(lines, words, strict=True)
    ]
    return [list(HEAD), *rows]


def as_dicts(lines: list[RunLine]) -> list[dict[str, Any]]:
    """The lines for JSON."""
    return [asdict(line) for line in lines]


def _word(text: str | None) -> str:
    return printable(text or "-")


def _abridged(text: str, most: int) -> str:
    """The text, its middle left out if it is longer; the end of a run's name says when or which trial it was."""
    keep = most - 2
    return text if len(text) <= most else f"{text[: keep - keep // 2]}..{text[len(text) - keep // 2 :]}"


def _duration(seconds: float | None) -> str:
    """A time in few columns."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
