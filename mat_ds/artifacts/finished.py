"""A finished run, read from its directory."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from mat_ds.artifacts.calibrated import Calibration
from mat_ds.artifacts.confusion import Confusion
from mat_ds.artifacts.described import folder_of, read_description
from mat_ds.errors import Problem, UserError
from mat_ds.methods import METHODS
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import known_holder_of
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tracking.mirrored import Shape, checked

Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Evaluation(Shape):
    step: Count
    score: float


class _ExportResult(Shape):
    which: Literal["last", "best"]
    step: Count
    score: float
    score_fp32: float


class _Parameters(Shape):
    all: Count
    trained: Count


class _Results(Shape):
    parameters: _Parameters | None = None  # earlier versions do not say
    steps: Count
    seconds: float
    last: _Evaluation
    best: _Evaluation
    median_last_half: float
    export: _ExportResult
    test: dict[str, dict[str, float]]
    confusion: Confusion | None = None
    calibration: Calibration | None = None
    dev_sha256: str


class _RunStart(Shape):
    world_size: Count
    zero_stage: Count


class _FinishedEnvironment(Shape):
    data_sha256: str
    devices: list[str]
    loss: str = ""
    packages: dict[str, str]
    starts: Annotated[list[_RunStart], Field(min_length=1)]


AGAIN = "bring it back from a copy, or let the run go on from its last checkpoint (train.resume=auto)"


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        folder: its directory.
        run: its options.
        spec: its task.
        results, environment: contents of `results.json` and `environment.json`.
        max_length: number of tokens at which inputs are cut.
    """

    folder: RunDirectory
    run: RunConfig
    spec: TaskSpec
    results: dict[str, Any]
    environment: dict[str, Any]
    max_length: int

    @property
    def exported(self) -> dict[str, Any]:
        """The evaluation of the weights in `model/`: `step`, `score`, and the metrics of each dev split."""
        evaluation: dict[str, Any] = self.results[self.results["export"]["which"]]
        return evaluation

    @property
    def score(self) -> float:
        """Score of the stored weights in `model/`, used by the registry to compare models."""
        return float(self.results["export"]["score_fp32"])

    def check_ended(self) -> None:
        """Checks that the run is not training any more, so that its results belong to its `model/`.

        Raises:
            UserError: if it is running, or was restarted and has not finished again.
        """
        ends = [event for event in read_events(self.folder.events) if event["event"] in ("start", "end")]
        if holder := known_holder_of(self.folder.path):
            reason = f"the run is still training: {holder}"
        elif not ends or ends[-1].get("status") != "FINISHED":
            reason = "the run was restarted and has not finished"
        else:
            return
        raise UserError(Problem("run", str(self.folder.path), reason, "let it train to its end (train.resume=auto)"))

    @cached_property
    def forward_units(self) -> int | Fraction:
        """Cost of all outer steps, where a forward pass of one batch is 1."""
        method = METHODS[self.run.method.name](self.run.method, kind_of(self.spec))
        return int(self.results["steps"]) * method.cost


def _fits_float(value: object) -> bool:
    """Whether a value is a number that fits a float."""
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


def read_finished(path: Path) -> Finished:
    """The finished run in a directory.

    Raises:
        UserError: if there is none, or it has not finished.
    """
    rundir = RunDirectory(path)
    if not rundir.holds_a_run:
        reason = "is not a run folder" if path.is_dir() else "there is no such folder"
        raise UserError(Problem("run", str(path), reason, "pass a run folder, such as runs/<run>"))
    model = folder_of(path)
    results = read_json(rundir.results, AGAIN) if os.path.lexists(rundir.results) else {}
    exported = results.get("export", {})
    if not isinstance(exported, dict) or "score" not in exported:
        raise UserError(
            Problem("run", str(path), "the run has not finished, so its model has no score", "let it train to its end")
        )
    known = read_description(model)
    assert known is not None  # the run around the folder describes the model
    checked(rundir.results, _Results, results)
    for name, split in product(("last", "best"), known.spec.dev):
        measured = results[name].get(split)
        numbers = [measured.get(metric) for metric in known.spec.metrics] if isinstance(measured, dict) else [None]
        if not all(map(_fits_float, numbers)):
            raise UserError(
                Problem(
                    str(rundir.results), None, f"its {name} evaluation has no {', '.join(known.spec.metrics)} on {split}", AGAIN
                )
            )
    environment = checked(rundir.environment, _FinishedEnvironment, read_json(rundir.environment, AGAIN))
    return Finished(rundir, load_run_config(rundir.config, ()), known.spec, results, environment, known.max_length)
