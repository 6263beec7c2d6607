"""A run in MLflow: finds or creates it by the run's own id, and brings it up to date with the run directory.

MLflow itself stores what was delivered: the tag `mat_ds.delivered` is the offset in `events.jsonl` after the last delivered
batch. If a batch is sent twice, because its tag was lost, its points are identical, and MLflow keeps them once.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from mat_ds.storage.events import Record
from mat_ds.storage.lock import holder_of
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking import content
from mat_ds.tracking.description import EXPERIMENT_TAGS, inputs_of, note_tags
from mat_ds.tracking.destination import client_uri, database_file, mirror_uri
from mat_ds.tracking.evaluations import Evaluations
from mat_ds.tracking.mirrored import digests_of, log_line, own_id, read_mirrored, read_results, turn_to_deliver
from mat_ds.tracking.options import EXPERIMENT
from mat_ds.tracking.parent import parent_of
from mat_ds.tracking.playback import Playback

# Files uploaded as artifacts, besides DeepSpeed's configuration.
ARTIFACTS = ("config.yaml", "environment.json", "results.json", "plots", "predictions")
# Seconds to wait for another process that is creating the tables of a new database.
TABLES = 60


class Replica:
    """A run directory and its run in MLflow.

    Args:
        run: a directory that contains a run.
        uri: address of the MLflow.

    Attributes:
        experiment, run_id, status: of the run in MLflow.
        told: number of events delivered by this object.
        uploaded: number of files uploaded by it.
        foreign: messages about files that were not uploaded.
    """

    def __init__(self, run: RunDirectory, uri: str):
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._run, self._uri = run, uri
        self._config, self._environment = read_mirrored(run)
        self._options: dict[str, Any] = self._config.get("tracking", {})
        self._playback = Playback(run.events)
        self.told = self.uploaded = 0
        self.foreign: list[str] = []
        with _alone(uri, own_id(run)):
            self._client = MlflowClient(client_uri(uri))
            found = self._find() or self._create()
            self.run_id, self.status = found.info.run_id, found.info.status
            self.experiment = self._client.get_experiment(found.info.experiment_id).name
            self._place = int(found.data.tags.get(content.DELIVERED, 0))
            if self._place > run.events.stat().st_size:  # the end of the file was lost in a crash of the machine
                self._place = 0
            self._above = self._parent(found.info.experiment_id)
        self._files = found.data.tags.get(content.FILES)
        self._evaluations = Evaluations(run, self._client, self.run_id, found.data.tags)
        self._files_due, self._turned = True, False
        self._describe(found, read_results(run) if self.status == "FINISHED" else {})

    # Finding or creating the run.

    def _find(self) -> Run | None:
        experiments = [experiment.experiment_id for experiment in pages(self._client.search_experiments)]
        wanted = f"tags.\"{content.RUN_ID}\" = '{own_id(self._run)}'"
        return next(pages(self._client.search_runs, experiment_ids=experiments, filter_string=wanted), None)

    def _create(self) -> Run:
        name = self._options.get("experiment") or EXPERIMENT
        if experiment := self._client.get_experiment_by_name(name):
            known = experiment.experiment_id
        else:
            known = self._client.create_experiment(name, self._artifacts(name), EXPERIMENT_TAGS)
        tags = {content.RUN_ID: own_id(self._run), content.DIRECTORY: str(self._run.path.resolve())}
        with suppress(OSError, KeyError):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        first = next((record for _, record in Playback(self._run.events).read()), None)
        began = content.milliseconds(first) if first else None
        return self._client.create_run(known, began, tags, self._options.get("run_name") or self._run.path.name)

    def _artifacts(self, experiment: str) -> str | None:
        """Artifact location of a new experiment; None if the server decides."""
        if self._uri.startswith(("http", "databricks")):
            return None
        beside = database_file(self._uri) or self._run.path.resolve()
        return (beside.parent / "mlartifacts" / re.sub(r"[^\w -]", "_", experiment)).as_uri()

    def _parent(self, experiment_id: str) -> dict[str, str]:
        """The tag by which MLflow shows a trial below its sweep; empty for other runs."""
        tags = self._options.get("tags", {})
        if "mat_ds.parent" not in tags:
            return {}
        # A sweep's worker only updates the parent in the MLflow that its trials are mirrored to.
        named = mirror_uri(self._run.path, self._options.get("uri"))
        spoken_to = named == self._uri and holder_of(self._run.path) is not None
        above = parent_of(self._client, experiment_id, tags["mat_ds.parent"], tags.get("mat_ds.sweep", "sweep"), spoken_to)
        return {"mlflow.parentRunId": above}

    def _describe(self, found: Run, results: dict[str, Any]) -> None:
        """Adds missing parameters, which never change, and data, and updates changed tags."""
        params = content.params_of(self._config, self._environment.get("starts", []))
        missing = iter([Param(key, value) for key, value in params.items() if key not in found.data.params])
        while some := list(islice(missing, content.PARAMS)):
            self._client.log_batch(self.run_id, params=some)
        tags = content.tags_of(self._environment, self._options.get("tags", {}))
        tags |= {content.DIRECTORY: str(self._run.path.resolve()), **self._above}
        tags = {**note_tags(self._config, self._environment, results, found.data.tags), **tags}
        changed = iter([RunTag(key, value) for key, value in tags.items() if found.data.tags.get(key) != value])
        while some_tags := list(islice(changed, content.PARAMS)):
            self._client.log_batch(self.run_id, tags=some_tags)
        if (name := self._options.get("run_name")) and name != found.info.run_name:
            self._client.update_run(self.run_id, name=name)
        known = {(entry.dataset.name, entry.dataset.digest) for entry in (found.inputs.dataset_inputs if found.inputs else ())}
        inputs = inputs_of(self._config, self._environment, results)
        if new := [entry for entry in inputs if (entry.dataset.name, entry.dataset.digest) not in known]:
            with suppress(MlflowException):  # servers before 2.4 store no inputs
                self._client.log_inputs(self.run_id, new)

    # Bringing it up to date.

    def deliver(self) -> None:
        """Delivers new events, the run's status, and its files when it starts and ends.

        Waits for another process that delivers this run, as `mat-ds sync` does beside a mirror.
        """
        with turn_to_deliver(self._run):
            self._deliver()

    def _deliver(self) -> None:
        held = holder_of(self._run.path) is not None  # read before the events: a run logs its end before it releases the lock
        for place, points in content.batches(self._news(), content.METRICS):
            self._log(points, RunTag(content.DELIVERED, str(place)))
            self._place = place
        end = self._playback.last if self._playback.last and self._playback.last["event"] == "end" else None
        status = content.status_of(end) if end else "RUNNING" if held else "FAILED"
        if status != self.status or self._turned:
            self._set(status, end)
        if self._files_due or self._turned:  # a start may change files, and an end writes some
            self._upload()
        self._files_due = self._turned = False
        files, lines = self._evaluations.deliver()
        self.uploaded, self.foreign = self.uploaded + files, self.foreign + lines

    def _news(self) -> Iterator[tuple[int, Record]]:
        for place, record in self._playback.read():
            if place > self._place:
                self.told += 1
                self._turned |= record["event"] in ("start", "end")
                yield place, record

    def _log(self, points: list[tuple[str, float, int, int]], *tags: RunTag) -> None:
        self._client.log_batch(self.run_id, metrics=[Metric(*point) for point in points], tags=tags)

    def _set(self, status: str, end: Record | None) -> None:
        latest = self._playback.latest
        if status == "RUNNING":
            self._client.update_run(self.run_id, status=status)
        else:
            results = read_results(self._run) if end and status == "FINISHED" else {}
            if end and results:
                numbers = content.result_metrics(results).items()
                self._log([(name, value, content.milliseconds(end), results["steps"]) for name, value in numbers])
            self._describe(self._client.get_run(self.run_id), results)
            self._client.set_terminated(self.run_id, status, content.milliseconds(latest) if latest else None)
        self.status = status

    def _upload(self) -> None:
        """Uploads files that changed; skips files that are not the folder's own."""
        digests, foreign = digests_of(self._run, ARTIFACTS)
        digest = hashlib.sha256(json.dumps([digests, foreign] if foreign else digests).encode()).hexdigest()
        if digest == self._files:
            return
        for line in foreign:
            log_line(self._run, line)
        self.foreign += foreign
        for name in digests:
            folder = str(Path(name).parent)
            self._client.log_artifact(self.run_id, str(self._run.path / name), None if folder == "." else folder)
        self._client.log_dict(self.run_id, self._environment.get("deepspeed_config", {}), "deepspeed.json")
        self._client.set_tag(self.run_id, content.FILES, digest)
        self._files, self.uploaded = digest, self.uploaded + len(digests) + 1


def pages(search: Any, **criteria: Any) -> Iterator[Any]:
    """All results of a paged MLflow search."""
    token = None
    while True:
        page = search(**criteria, page_token=token)
        yield from page
        if not (token := page.token):
            return


@contextmanager
def _alone(uri: str, run_id: str) -> Iterator[None]:
    """A context that excludes other processes from creating this database's tables, or this run on the server, if the disk
    supports locks."""
    file = database_file(uri)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
    path = file.with_name(f"{file.name}.lock") if file else Path(tempfile.gettempdir()) / f"mat_ds-{run_id}.lock"
    with ExitStack() as held:
        try:
            held.enter_context(FileLock(path, timeout=TABLES))
        except Timeout:
            raise
        except (OSError, NotImplementedError):
            pass
        yield
