"""Effect of K and lambda (Tables 4 and 5 of the MAT paper): tables of runs that differ in nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mat_ds.reports.groups import Group
from mat_ds.reports.labels import exactly, name_in_papers, shown
from mat_ds.reports.published import metric_title, metrics_of, published, source_of
from mat_ds.reports.table import Row, Table, text
from mat_ds.reports.tables import SIDE_BY_SIDE, mean_columns, means_of

# What is varied -> its options. K is one number if both players have the same.
VARIED = {"K": ("method.theta_steps", "method.delta_steps"), "λ": ("method.lam",)}
AXES = {"K": "K of both players, or of θ / of δ", "λ": "λ"}
NUMBERED = {"K": ("ablation-K", "Table 4"), "λ": ("ablation-lambda", "Table 5")}
Value = tuple[float, ...]


class Family(NamedTuple):
    """Groups that only differ in the varied option, by its value."""

    varied: str
    members: dict[Value, Group]

    @property
    def first(self) -> Group:
        return next(iter(self.members.values()))


def families(groups: Sequence[Group]) -> list[Family]:
    """All families of at least two groups with finished, scored runs; unfinished runs would score less."""
    found: dict[tuple[str, str], dict[Value, Group]] = {}
    for varied, keys in VARIED.items():
        for group in groups:
            value = tuple(float(group.options[key]) for key in keys if key in group.options)
            if value and group.finished and group.values("last"):
                rest = {key: other for key, other in group.options.items() if key not in keys}
                found.setdefault((varied, json.dumps(rest, sort_keys=True)), {})[value] = group
    return [Family(varied, dict(sorted(members.items()))) for (varied, _), members in found.items() if len(members) > 1]


def quoted_of(family: Family, task: str) -> dict[Value, float]:
    """MAT's published scores on a task over the same option; published K applies to both players."""
    if family.first.method != "mat":
        return {}
    players = len(next(iter(family.members)))
    return {(float(at),) * players: score for at, score in published()["ablations"][family.varied].get(task, {}).items()}


def metric_of(family: Family, task: str) -> str:
    """The metric to show: the published one if there are published scores, else the score."""
    return metrics_of(task)[0] if quoted_of(family, task) else "score"


def _said(value: Value, others: Iterable[Value]) -> Row:
    """A value as text: unrounded, and as it is shown among others."""
    numbers = value[:1] if len(set(value)) == 1 else value
    among = [number for other in others for number in other]
    return {"value": "/".join(exactly(number) for number in numbers), "shown": "/".join(shown(n, among) for n in numbers)}


def ablation_table(groups: Sequence[Group], varied: str) -> Table:
    """Table 4 (K) or 5 (λ) of the MAT paper: measured rows, then published rows of the same task."""
    rows: list[Row] = []
    for number, family in enumerate(family for family in families(groups) if family.varied == varied):
        task, method = family.first.task, name_in_papers(family.first.method)
        metric = metric_of(family, task)
        series: Row = {"task": task, "method": method, "series": str(number + 1), "metric": metric_title(metric)}
        rows += [
            {**series, **_said(value, family.members), "source": source_of([group]), **means_of(group, metric)}
            for value, group in family.members.items()
        ]
        source, quoted = f"published: {published()['ablations'][varied]['source']}", quoted_of(family, task)
        rows += [{**series, **_said(value, quoted), "source": source, "published": score} for value, score in quoted.items()]
    columns = [("method", "method"), ("task", "task"), ("series", "series"), ("metric", "metric"), ("source", "source"),
               ("seeds", "seeds")]  # fmt: skip
    name, numbered = NUMBERED[varied]
    note = (
        f"The rows of a series differ in nothing but {AXES[varied]}. Published scores are of BERT-base; ours beside them are "
        f"of the same metric, the best where the score is. {SIDE_BY_SIDE}"
    )
    return Table(
        name,
        f"What {varied} does ({numbered} of the paper)",
        (text(varied, "value", "shown"), *(text(*column) for column in columns), *mean_columns(published=True)),
        rows,
        note,
    )
