"""Reads the runs of an MLflow experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from mat_ds.errors import Problem, UserError
from mat_ds.storage.events import Record
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import DIRECTORY, RUN_ID
from mat_ds.tracking.destination import client_uri, shown_uri
from mat_ds.tracking.mirrored import read_tracking
from mat_ds.tracking.names import records_of
from mat_ds.tracking.replica import pages


@dataclass(frozen=True)
class TrackedRun:
    """A run as stored in MLflow.

    Attributes:
        name, status, run_id: of the run in MLflow.
        directory: its run directory at the last delivery; None if another run is there now.
        params: the options it began with, as text, by dotted key.
        tags: its tags.
        records: its events as from `read_events`; empty if the directory still exists.
    """

    name: str
    status: str
    run_id: str
    directory: Path | None
    params: dict[str, str]
    tags: dict[str, str]
    records: list[Record]


def runs_of(uri: str, experiment: str) -> list[TrackedRun]:
    """The runs of mat_ds in an experiment, oldest first.

    Raises:
        UserError: if there is no such experiment.
    """
    client = MlflowClient(client_uri(uri))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(sorted(entry.name for entry in pages(client.search_experiments)))
        raise UserError(Problem("experiment", experiment, f"does not exist in {shown_uri(uri)}", f"known: {known}"))
    runs = pages(client.search_runs, experiment_ids=[found.experiment_id], order_by=["attributes.start_time ASC"])
    return [_tracked(client, run) for run in runs if RUN_ID in run.data.tags]


def _tracked(client: MlflowClient, run: Run) -> TrackedRun:
    directory = Path(run.data.tags[DIRECTORY]) if DIRECTORY in run.data.tags else None
    own = run.data.tags[RUN_ID]
    if directory and read_tracking(RunDirectory(directory)).get("run_id", own) != own:
        directory = None  # another run has replaced it
    records: list[Record] = []
    if not (directory and (directory / "events.jsonl").exists()):
        histories = (client.get_metric_history(run.info.run_id, name) for name in run.data.metrics)
        records = records_of((p.key, p.step, p.timestamp, p.value) for history in histories for p in history)
    return TrackedRun(
        run.info.run_name, run.info.status, run.info.run_id, directory, dict(run.data.params), dict(run.data.tags), records
    )
