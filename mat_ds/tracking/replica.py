"""A run in MLflow: found by the run's own id or made, and brought up to date with the run directory.

Nothing here needs to know what was delivered before: MLflow says so itself. The tag `mat_ds.delivered` is the place in
`events.jsonl` up to which it has the events, set behind each batch of them, and a batch that is sent twice, because its tag was
lost, has the same names, times, steps and values, which MLflow keeps once.
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

from mat_ds.storage.events import Record
from mat_ds.storage.lock import holder_of
from mat_ds.storage.own_files import own_files
from mat_ds.storage.reading import sha256_of_file
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking import content
from mat_ds.tracking.destination import client_uri, database_file, mirror_uri
from mat_ds.tracking.identity import note_delivery, own_id
from mat_ds.tracking.parent import parent_of
from mat_ds.tracking.playback import Playback
from mat_ds.tracking.told import read_results, read_told, tell_log

# MLflow takes 1000 entities of a batch, 100 of them parameters or tags.
METRICS, PARAMS = 900, 100
# What becomes an artifact, besides DeepSpeed's configuration.
ARTIFACTS = ("config.yaml", "environment.json", "results.json", "plots", "predictions")
# Seconds to wait for another process that makes the tables of a new database.
TABLES = 60


class Replica:
    """A run directory and its run in MLflow.

    Args:
        run: a run directory that holds a run.
        uri: the MLflow.

    Attributes:
        experiment, run_id, status: of the run in MLflow.
        told: events delivered since.
        uploaded: files delivered since.
        foreign: what was not uploaded since, and why.
    """

    def __init__(self, run: RunDirectory, uri: str):
        for chatty in ("alembic", "mlflow"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self._run, self._uri = run, uri
        self._config, self._environment = read_told(run)
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
            if self._place > run.events.stat().st_size:  # a machine that crashed has lost the end of it
                self._place = 0
            note_delivery(run, uri, self.run_id, self.experiment, self._place)
            self._above = self._parent(found.info.experiment_id)
        self._files = found.data.tags.get(content.FILES)
        self._files_due, self._turned = True, False
        self._describe(found)

    # A run that is in it, and one that is not.

    def _find(self) -> Run | None:
        experiments = [experiment.experiment_id for experiment in pages(self._client.search_experiments)]
        wanted = f"tags.\"{content.RUN_ID}\" = '{own_id(self._run)}'"
        return next(pages(self._client.search_runs, experiment_ids=experiments, filter_string=wanted), None)

    def _create(self) -> Run:
        name = self._options.get("experiment", "mat_ds")
        experiment = self._client.get_experiment_by_name(name)
        known = experiment.experiment_id if experiment else self._client.create_experiment(name, self._artifacts(name))
        tags = {content.RUN_ID: own_id(self._run), content.DIRECTORY: str(self._run.path.resolve())}
        with suppress(OSError, KeyError):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        first = next((record for _, record in Playback(self._run.events).read()), None)
        began = content.milliseconds(first) if first else None
        return self._client.create_run(known, began, tags, self._options.get("run_name") or self._run.path.name)

    def _artifacts(self, experiment: str) -> str | None:
        """Where the artifacts of a new experiment go, of which only a server has an idea of its own."""
        if self._uri.startswith(("http", "databricks")):
            return None
        beside = database_file(self._uri) or self._run.path.resolve()
        return (beside.parent / "mlartifacts" / re.sub(r"[^\w -]", "_", experiment)).as_uri()

    def _parent(self, experiment_id: str) -> dict[str, str]:
        """The tag by which MLflow shows a run under that of its sweep, if it is of one."""
        tags = self._options.get("tags", {})
        if "mat_ds.parent" not in tags:
            return {}
        # A worker of the sweep speaks to the MLflow that it has named to its trials.
        named = mirror_uri(self._run.path, self._options.get("uri"))
        spoken_to = named == self._uri and holder_of(self._run.path) is not None
        above = parent_of(self._client, experiment_id, tags["mat_ds.parent"], tags.get("mat_ds.sweep", "sweep"), spoken_to)
        return {"mlflow.parentRunId": above}

    def _describe(self, found: Run) -> None:
        """Parameters it has not, which never change, and tags that are not what it has."""
        params = content.params_of(self._config, self._environment.get("starts", []))
        missing = iter([Param(key, value) for key, value in params.items() if key not in found.data.params])
        while some := list(islice(missing, PARAMS)):
            self._client.log_batch(self.run_id, params=some)
        tags = content.tags_of(self._environment, self._options.get("tags", {}))
        tags |= {content.DIRECTORY: str(self._run.path.resolve()), **self._above}
        changed = iter([RunTag(key, value) for key, value in tags.items() if found.data.tags.get(key) != value])
        while some_tags := list(islice(changed, PARAMS)):
            self._client.log_batch(self.run_id, tags=some_tags)
        if (name := self._options.get("run_name")) and name != found.info.run_name:
            self._client.update_run(self.run_id, name=name)

    # Bringing it up to date.

    def deliver(self) -> None:
        """Events that have been logged since, the status of the run, and its files when it begins and ends."""
        held = holder_of(self._run.path) is not None  # asked first: a run says that it ends before it lets go
        for place, points in content.batches(self._news(), METRICS):
            self._log(points, RunTag(content.DELIVERED, str(place)))
            self._place = place
        end = self._playback.last if self._playback.last and self._playback.last["event"] == "end" else None
        status = content.status_of(end) if end else "RUNNING" if held else "FAILED"
        if status != self.status or self._turned:
            self._set(status, end)
        if self._files_due or self._turned:  # a life that goes on has changed files at its start, and each leaves some
            self._upload()
        self._files_due = self._turned = False

    def note(self) -> None:
        """Leaves word in the run directory of what has been delivered."""
        note_delivery(self._run, self._uri, self.run_id, self.experiment, self._place)

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
            if end and status == "FINISHED" and (results := read_results(self._run)):
                numbers = content.result_metrics(results).items()
                self._log([(name, value, content.milliseconds(end), results["steps"]) for name, value in numbers])
            self._client.set_terminated(self.run_id, status, content.milliseconds(latest) if latest else None)
        self.status = status

    def _upload(self) -> None:
        """The files, unless MLflow has them as they are. What is not a file of the folder's own stays here."""
        digests, foreign = {}, []
        for file, reason in own_files(self._run.path, ARTIFACTS):
            name = str(file.relative_to(self._run.path))
            if reason:
                foreign.append(f"not uploaded: {name} {reason}")
            else:
                digests[name] = sha256_of_file(file)
        digest = hashlib.sha256(json.dumps([digests, foreign] if foreign else digests).encode()).hexdigest()
        if digest == self._files:
            return
        for line in foreign:
            tell_log(self._run, line)
        self.foreign += foreign
        for name in digests:
            folder = str(Path(name).parent)
            self._client.log_artifact(self.run_id, str(self._run.path / name), None if folder == "." else folder)
        self._client.log_dict(self.run_id, self._environment.get("deepspeed_config", {}), "deepspeed.json")
        self._client.set_tag(self.run_id, content.FILES, digest)
        self._files, self.uploaded = digest, self.uploaded + len(digests) + 1


def pages(search: Any, **criteria: Any) -> Iterator[Any]:
    """All that a search of MLflow finds."""
    token = None
    while True:
        page = search(**criteria, page_token=token)
        yield from page
        if not (token := page.token):
            return


@contextmanager
def _alone(uri: str, run_id: str) -> Iterator[None]:
    """Within it no other process makes the tables of this database, or this run on this server, if the disk has locks."""
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
