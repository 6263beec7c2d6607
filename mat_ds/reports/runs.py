"""`RunData`, what a report needs of a run, and how runs are found and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from mat_ds.artifacts.evaluated import Robustness, report_files
from mat_ds.config.names import name_of_task
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, collect_problems, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.reports.shapes import Architecture, Config, Environment, Results, events_of
from mat_ds.storage.events import Record
from mat_ds.storage.own_files import file_problems, why_foreign
from mat_ds.storage.progress import Progress, last_half
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory, run_folders
from mat_ds.tasks.measures import LOSS, measure_of
from mat_ds.tracking.mirrored import MIRRORED, Shape, checked, read_tracking

# The three scores that are always shown together, with their titles.
KINDS = {"last": "last", "best": "best", "median": "median of the last half"}


@dataclass(frozen=True)
class RunData:
    """What a report needs of a run; `read_run` makes it from a run directory.

    Attributes:
        name: shown in tables.
        config: its options, nested as in `config.yaml`.
        events: as from `read_events`.
        environment: contents of `environment.json`.
        results: contents of `results.json`; empty if it does not exist yet.
        robustness: reports of `mat-ds evaluate`, oldest first.
        architecture: `config.json` of the exported model.
        ended: FINISHED, FAILED or KILLED, if known from elsewhere than the events.
        folder: its directory, if it exists.
        run_id: the id given by mat_ds, unchanged if the run is moved; None if it has none.
    """

    name: str
    config: dict[str, Any]
    events: list[Record]
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    robustness: list[dict[str, Any]] = field(default_factory=list)
    architecture: dict[str, Any] = field(default_factory=dict)
    ended: str | None = None
    folder: Path | None = None
    run_id: str | None = None

    @property
    def task(self) -> str:
        return str(self.results.get("task") or name_of_task(self.config["task"]))

    @property
    def method(self) -> str:
        return str(self.config["method"]["name"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    def of(self, event: str) -> list[Record]:
        """The events of one kind."""
        return [record for record in self.events if record["event"] == event]

    @cached_property
    def step(self) -> int:
        """Outer steps done."""
        return max((int(record["step"]) for record in self.events), default=0)

    @property
    def time(self) -> float:
        """Time of the last event, in seconds since 1970."""
        return max((float(record["time"]) for record in self.events), default=0.0)

    @property
    def status(self) -> str:
        """finished, failed, killed, or unfinished (still running, or ended without an end event)."""
        last = next((e for e in reversed(self.events) if e["event"] in ("start", "end")), {"event": None})
        told = last.get("status") if last["event"] == "end" else self.ended
        done = self.results.get("steps") == self.step and self.step
        return str(told).lower() if told else "finished" if done else "unfinished"

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def reached(self) -> str:
        """How far it got, in words."""
        planned, steps = self.config["train"].get("max_steps"), self.of("step")
        if self.finished or not steps:
            return f"{self.step} steps"
        epoch = steps[-1].get("epoch")
        epochs = f", epoch {epoch:.2f} of {self.config['train']['epochs']:g}" if isinstance(epoch, (int, float)) else ""
        whole = f"of {planned} steps" if planned else f"steps{epochs}"
        return f"{self.step} {whole}"

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """`step`, `score` and `<split>/<metric>` of every evaluation, of the exported kind of weights."""
        return [
            {key: e[key] for key in ("step", "score", "selection") if key in e}
            | {
                f"{split}/{name}": value
                for split, found in e.items()
                if isinstance(found, dict) and split not in ("raw", "average")
                for name, value in found.items()
            }
            for e in self.of("evaluation")
        ]

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that its score is made of."""
        names = (name.rpartition("/")[2] for found in self.evaluations[-1:] for name in found if "/" in name)
        return [name for name in dict.fromkeys(names) if name != LOSS]

    def factor(self, name: str = "score") -> int:
        """What `score` or `<split>/<metric>` is multiplied by to be shown: 100 for percent, or 1."""
        metrics = self.metrics if name == "score" else [name.rpartition("/")[2]]
        return 100 if all(measure_of(metric).share for metric in metrics) else 1

    @cached_property
    def scores(self) -> dict[str, dict[str, float]]:
        """`last`, `best` and `median` of the score and each metric, by the rules of `results.json`; `best` is the evaluation
        with the best score. Empty if there is no evaluation."""
        found = self.evaluations
        if not found:
            return {}
        steps = found[-1]["step"]
        return {
            "last": found[-1],
            "best": Progress(steps, found).best,
            "median": {
                name: median(last_half(found, steps, name))
                for name in found[-1]
                if name != "step" and all(name in evaluation for evaluation in found)
            },
        }

    @property
    def seconds(self) -> float:
        """Time spent in outer steps."""
        batch = self.config["train"]["batch_size"]
        return float(
            self.results.get("seconds")
            or sum(batch / speed for r in self.of("step") if (speed := r.get("samples_per_second", 0)) > 0)
        )

    @property
    def wall_time(self) -> float:
        """Seconds from its first event to its last, without the pauses between its starts."""
        pairs = pairwise(self.events)
        return sum(max(0.0, after["time"] - before["time"]) for before, after in pairs if after["event"] != "start")

    @property
    def step_cost(self) -> int | Fraction | None:
        """Cost of an outer step in forward units; None if its options do not fit this version."""
        method = METHODS.get(self.method)
        try:
            settings = method.Settings.model_validate(self.config["method"]) if method else None
            return method(settings, None).cost if method else None  # type: ignore[arg-type]
        except ValidationError:
            return None

    @property
    def passes(self) -> float | None:
        """Cost of its training, in forward passes of one example."""
        return None if self.step_cost is None else float(self.step_cost * self.step * self.config["train"]["batch_size"])


def read_run(folder: Path, name: str) -> RunData:
    """Reads a run directory.

    Raises:
        UserError: if one of its files cannot be read.
    """
    run = RunDirectory(folder)
    reports = report_files(folder)
    raise_if_any(file_problems(folder, [*MIRRORED, *(str(path.relative_to(folder)) for path in reports)]))
    shape = run.model / "config.json"
    architecture = _json(shape, Architecture) if why_foreign(folder, shape) is None else {}  # may be on another disk
    return RunData(
        name, checked(run.config, Config, read_yaml(run.config)), events_of(run.events), _json(run.environment, Environment),
        _json(run.results, Results), [_json(path, Robustness) for path in reports], architecture, folder=folder.resolve(),
        run_id=read_tracking(run).get("run_id"),
    )  # fmt: skip


def _json(path: Path, shape: type[Shape]) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file."""
    return checked(path, shape, read_json(path, "mend it, or leave this run out")) if path.exists() else {}


def read_runs(paths: Sequence[Path]) -> list[RunData]:
    """Reads run directories, and folders that contain them at any depth; each run once.

    Raises:
        UserError: naming every path without a run, and every file that cannot be read.
    """
    problems: list[Problem] = []
    found: dict[Path, str] = {}
    for path in paths:
        folders = list(run_folders(path.resolve()))
        if not folders:
            reason = (
                "has no run (a folder with config.yaml, environment.json and events.jsonl)"
                if path.is_dir()
                else "there is no such folder"
            )
            problems.append(Problem("RUNS", str(path), reason, "pass runs/<run>, or a folder of such folders"))
        for folder in folders:
            found.setdefault(folder, folder.relative_to(path.resolve().parent).as_posix())
    names = list(found.values())
    runs = [
        collect_problems(problems, read_run, folder, name if names.count(name) == 1 else str(folder))
        for folder, name in found.items()
    ]
    raise_if_any(problems)
    return [run for run in runs if run]


def each_once(runs: Sequence[RunData]) -> tuple[list[RunData], list[str]]:
    """Of runs with the same id or folder, keeps the one that got furthest, or the first of equals; also returns a note about
    each other folder."""
    kept: dict[str, RunData] = {}
    keys = [run.run_id or str(run.folder or number) for number, run in enumerate(runs)]
    for key, run in zip(keys, runs, strict=True):
        kept[key] = max(kept.get(key, run), run, key=lambda one: one.step)
    twins = [(run, kept[key]) for key, run in zip(keys, runs, strict=True)]
    others = [(run, twin) for run, twin in twins if run.folder and run.folder != twin.folder]
    return list(kept.values()), [f"left out: {run.name} (the same run as {twin.name})" for run, twin in others]
