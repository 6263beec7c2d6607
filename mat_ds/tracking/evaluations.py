"""What `mat-ds evaluate` left in a run directory, delivered to the run's MLflow: files as artifacts, and the numbers.

The run in MLflow has a tag for each evaluation that was delivered. A report does not say when it was made, so its points stand
at the time at which the run began and at the number of the evaluation as their step: delivered again, MLflow keeps them once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from mat_ds.errors import UserError
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking import content
from mat_ds.tracking.mirrored import FIX, digests_of, log_line
from mat_ds.tracking.names import ROBUSTNESS, numbers_of
from mat_ds.tracking.playback import Playback

REPORT = "robustness.json"
# Tag of an evaluation, before its number.
EVALUATION = "mat_ds.evaluation."
# What names a point of a list.
LEVELS = ("radius", "rate", "name")


class Evaluations:
    """The evaluations of a run directory.

    Args:
        run: the directory.
        client, run_id: its MLflow, and its id there.
        tags: of the run there.
    """

    def __init__(self, run: RunDirectory, client: MlflowClient, run_id: str, tags: Mapping[str, str]):
        self._run, self._client, self._run_id = run, client, run_id
        self._delivered = {value for key, value in tags.items() if key.startswith(EVALUATION)}
        self._seen: list[tuple[str, int, int]] | None = None

    def deliver(self) -> tuple[int, list[str]]:
        """Delivers the evaluations that MLflow lacks; looks into none if no report has changed since the last call.

        Returns:
            Number of files uploaded, and messages about files of which some part was not.
        """
        reports = sorted(self._run.path.glob(f"evaluation*/{REPORT}"), key=lambda path: (len(path.parent.name), path))
        seen = [(str(path), status.st_mtime_ns, status.st_size) for path in reports if (status := path.lstat())]
        done = [self._deliver_one(report) for report in reports] if seen != self._seen else []
        self._seen = seen
        return sum(files for files, _ in done), [line for _, lines in done for line in lines]

    def _deliver_one(self, report: Path) -> tuple[int, list[str]]:
        folder = report.parent
        names = [f"{folder.name}/{name}" for name in (REPORT, *sorted(path.name for path in folder.glob("*.jsonl")))]
        digests, foreign = digests_of(self._run, names)
        told = f"{folder.name} {hashlib.sha256(json.dumps([digests, foreign]).encode()).hexdigest()}"
        if told in self._delivered:
            return 0, []
        number = len(self._delivered) + 1
        for name in digests:
            self._client.log_artifact(self._run_id, str(self._run.path / name), str(Path(name).parent))
        if f"{folder.name}/{REPORT}" in digests:
            try:
                self._log(robustness_metrics(read_json(report, FIX)), number)
            except UserError as error:
                foreign.append(f"no numbers of {folder.name}: {error.problems[0].reason}")
        for line in foreign:
            log_line(self._run, line)
        self._client.set_tag(self._run_id, f"{EVALUATION}{number}", told)
        self._delivered.add(told)
        return len(digests), foreign

    def _log(self, numbers: Mapping[str, float], number: int) -> None:
        began = next((content.milliseconds(record) for _, record in Playback(self._run.events).read()), 0)
        points = iter([Metric(name, value, began, number) for name, value in numbers.items()])
        while some := list(islice(points, content.METRICS)):
            self._client.log_batch(self._run_id, metrics=some)


def robustness_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a `robustness.json` by metric name, such as `robustness/validation/text_attacks/characters/flip_rate` and
    `robustness/validation/attack/linf/0.001/accuracy`; whether a gate was met is 1 or 0.

    A point of a curve is named by its radius or rate, a test by its name; points of diagrams and shown texts are left out.
    """
    splits = _object(report.get("splits"))
    norm = str(_object(report.get("attack")).get("norm"))
    tree = {
        split: {**measured, "attack": {norm: measured.get("attack")}} if isinstance(measured, dict) else None
        for split, measured in splits.items()
    }
    tree["invariance"] = _object(report.get("invariance")).get("tests")
    if isinstance(met := _object(report.get("gate")).get("met"), bool):
        tree["gate"] = {"met": int(met)}
    return {content.allowed_key(name): value for name, value in numbers_of(_mapped(tree), f"{ROBUSTNESS}/").items()}


def _object(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def _mapped(tree: Any) -> Any:
    """Nested fields, where a list of points is a mapping by what names them, and other lists are left out."""
    if isinstance(tree, list):
        tree = dict(pair for point in tree if isinstance(point, dict) for pair in _point(point))
    return {_segment(str(key)): _mapped(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _point(point: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of a point and its fields, if it has a name."""
    level = next((key for key in LEVELS if key in point), None)
    if level and isinstance(at := point[level], (int, float, str)):
        yield at if isinstance(at, str) else f"{at:g}", {key: value for key, value in point.items() if key != level}


def _segment(key: str) -> str:
    """A key as a part of a metric's name, which MLflow reads as a path: values of the user's must not lead elsewhere."""
    return re.sub(r"^\.*$", "_", key.replace("/", "_"))
