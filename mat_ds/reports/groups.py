"""`Group`: the runs of an experiment, which only differ in their seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import Any

from mat_ds.reports.runs import RunData

Options = dict[str, Any]
# What `mean_and_spread` makes of a column, in words.
SPREAD = "means over the seeds ± standard deviation, of two seeds both values"


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

    def shown(self, kind: str, name: str = "score") -> list[float]:
        """`values` as they are shown: in percent, unless the metric is no share of anything."""
        found = ((run.scores.get(kind, {}).get(name), run.factor(name)) for run in self.counted)
        return [factor * value for value, factor in found if value is not None]

    def mean(self, kind: str, name: str = "score") -> float | None:
        """Mean over the seeds; None if no run has the score."""
        return mean_of(self.values(kind, name))


def score_axis(group: Group) -> str:
    """Title of an axis of its scores."""
    return "dev score, %" if group.counted[0].factor() == 100 else "dev score"


def one_a_seed(runs: Iterable[RunData]) -> list[RunData]:
    """One run per seed: a finished one if possible, else the newest."""
    ordered = sorted(runs, key=lambda run: (run.finished, run.time))
    kept = {run.seed: run for run in ordered}
    return [kept[seed] for seed in sorted(kept)]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    found = [value for value in values if value is not None]
    return mean(found) if found else None


def mean_and_spread(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Cells of a table: the mean, and of three seeds or more their sample standard deviation. Two seeds say next to nothing
    about it, so they are kept as they are."""
    both = tuple(values) if len(values) == 2 else None
    return {name: mean_of(values), f"{name} sd": stdev(values) if len(values) > 2 else None, f"{name} of both": both}
