"""Replays a run from its event log, for trackers that are not followed while it trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mat_ds.errors import Problem, UserError
from mat_ds.storage.events import read_events
from mat_ds.storage.own_files import why_foreign
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import result_metrics
from mat_ds.tracking.mirrored import read_results
from mat_ds.tracking.names import event_metrics
from mat_ds.tracking.playback import is_whole


class Moment(NamedTuple):
    """What a run logged at one time: seconds since 1970, outer step, numbers by metric name."""

    time: float
    step: int
    metrics: dict[str, float]


def folder_in(run: RunDirectory, name: str) -> Path:
    """A tracker's folder in a run directory; raises `UserError` if it leads out of it."""
    path = run.path / name
    if reason := why_foreign(run.path, path):
        raise UserError(Problem(str(path), None, reason, "move it away, or leave this run out"))
    return path


def moments(run: RunDirectory) -> Iterator[Moment]:
    """All numbers of a run in order, as if it had never been interrupted; its results come with its end."""
    for record in read_events(run.events):
        if not is_whole(record):
            continue
        metrics = event_metrics(record)
        results = read_results(run) if record["event"] == "end" and record.get("status") == "FINISHED" else {}
        if results.get("steps") == record["step"]:  # else they are of a later start
            metrics |= result_metrics(results)
        if metrics:
            yield Moment(record["time"], record["step"], metrics)
