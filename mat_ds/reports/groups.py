"""Groups runs into experiments: runs that only differ in their seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.reports.labels import METHOD_NAMES, Options, distinguishing_options, labels_of
from mat_ds.reports.runs import RunData
from mat_ds.runs.load import forget_gone, merge_options
from mat_ds.runs.options import RunConfig
from mat_ds.runs.resume import FREE
from mat_ds.tracking.content import precision_of

# Options that do not distinguish experiments: paths, micro-batch sizes, how often it saves and measures.
IRRELEVANT = FREE - {"model.name", "train.epochs", "train.max_steps", "train.eval_per_epoch"} | {"seed", "method.on_invisible"}


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that only differ in their seed.

    Attributes:
        task, method: name of the task, key of the method.
        label: the method and what distinguishes it from other groups of the task; unique within the task.
        options: shared by its runs, by dotted key.
        runs: at least one, sorted by seed.
    """

    task: str
    method: str
    label: str
    options: Options
    runs: tuple[RunData, ...]

    @cached_property
    def seeds(self) -> list[RunData]:
        """One run per seed."""
        return one_a_seed(self.runs)

    @cached_property
    def counted(self) -> list[RunData]:
        """The runs that means are taken over, one per seed: finished ones, or all if none is finished."""
        return [run for run in self.seeds if run.finished] or self.seeds

    @property
    def finished(self) -> bool:
        return all(run.finished for run in self.counted)

    def values(self, kind: str, name: str = "score") -> list[float]:
        """One score of each counted run that has it.

        Args:
            kind: `last`, `best` or `median`.
            name: `score`, or `<split>/<metric>`.
        """
        found = (run.scores.get(kind, {}).get(name) for run in self.counted)
        return [value for value in found if value is not None]

    def mean(self, kind: str, name: str = "score") -> float | None:
        """Mean over the seeds; None if no run has the score."""
        return mean_of(self.values(kind, name))


def one_a_seed(runs: Iterable[RunData]) -> list[RunData]:
    """One run per seed: a finished one if possible, else the newest."""
    ordered = sorted(runs, key=lambda run: (run.finished, run.time))
    kept = {run.seed: run for run in ordered}
    return [kept[seed] for seed in sorted(kept)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def group_runs(runs: Sequence[RunData]) -> list[Group]:
    """Groups runs by task, method and distinguishing options, sorted in this order."""
    found: dict[tuple[str, str, str], list[RunData]] = {}
    for run in runs:
        key = (run.task, run.method, json.dumps(options_of(run), sort_keys=True))
        found.setdefault(key, []).append(run)
    groups = [
        Group(task, method, "", json.loads(options), tuple(sorted(members, key=lambda run: (run.seed, run.name))))
        for (task, method, options), members in found.items()
    ]
    order = list(METHOD_NAMES)

    def place(group: Group) -> tuple[Any, ...]:
        rank = order.index(group.method) if group.method in order else len(order)
        return (group.task, rank, [(key, _sortable(value)) for key, value in distinguishing_options(group, groups).items()])

    ordered = sorted(groups, key=place)
    return [replace(group, label=label) for group, label in zip(ordered, labels_of(ordered), strict=True)]


def options_of(run: RunData) -> Options:
    """The options that define a run's experiment, by dotted key; data is identified by its contents, not its path."""
    merged = merge_options(RunConfig().model_dump(mode="json", exclude={"method"}), run.config)
    forget_gone(merged)
    flat = flatten(merged)
    options = {key: value for key, value in flat.items() if key not in IRRELEVANT and not key.startswith("tracking.")}
    precision = run.environment.get("precision") or precision_of(run.environment) or "unknown"
    data = run.environment.get("data_sha256")
    return options | {"task": run.task, "precision": precision, "data": str(data)[:8]}


def _sortable(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, (int, float))
    return (not number, float(value) if number else 0.0, str(value))
