"""How far the probabilities of models can be trusted: reliability diagrams, risk over coverage, and a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes

from mat_ds.reports.drawing import Picture, legend_below, looks, picture, sample, sheet
from mat_ds.reports.groups import SPREAD, Group, mean_and_spread, mean_of
from mat_ds.reports.table import Column, Row, Table, text

PART = "calibration"
SHOWN = 4  # experiments in a figure, each with two lines; more cannot be told apart
QUANTITIES = {"nll": "NLL", "brier": "Brier", "ece": "ECE", "ece_adaptive": "ECE, equal bins", "aurc": "AURC"}


def reliability(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Reliability diagrams before and after temperature scaling (Guo et al. 2017, figure 4), the examples by confidence, and
    risk over coverage, each of the first run of an experiment on its first dev split."""
    found = {group: one for group in groups if (one := _first_split(group))}
    if not found:
        return
    shown = list(found)[:SHOWN]
    figure, (diagram, shares, risks) = sheet(3, 2.1)
    diagram.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    legend = [
        sample("as trained", color="gray", marker="o"),
        _dotted(sample, "at the fitted temperature", color="gray", marker="o"),
    ]
    for group, look in zip(shown, looks(len(shown)), strict=True):
        style = {**look, "linestyle": "-"}
        split = found[group]
        _draw_points(diagram, split["reliability"], "confidence", "accuracy", style)
        _draw_points(
            diagram, split["reliability_after"], "confidence", "accuracy", {**style, "linestyle": ":", "fillstyle": "none"}
        )
        _draw_points(shares, split["reliability"], "confidence", "share", style)
        _draw_points(
            shares, split["reliability_after"], "confidence", "share", {**style, "linestyle": ":", "fillstyle": "none"}
        )
        _draw_points(risks, split["risk_coverage"], "coverage", "risk", {**style, "marker": ""})
        legend.insert(-2, sample(group.label, **style))
    diagram.set_ylabel("accuracy")
    shares.set_ylabel("share of answers")
    shares.set_xlabel("confidence")
    for axis in (diagram, shares):
        left = min(point["confidence"] for group in shown for point in found[group]["reliability"])
        axis.set_xlim(min(left, 0.95) - 0.02, 1.02)
    risks.set_xlabel("coverage: share of the most confident answers")
    risks.set_ylabel("share of them wrong")
    risks.set_ylim(bottom=0)
    legend_below(figure, legend)
    few = f" Of {len(found)} experiments the first {len(shown)}." if len(shown) < len(found) else ""
    caption = "how far probabilities can be trusted: on the grey line of all answers given with p a share p is right." + few
    yield picture(figure, task, PART, "calibration", caption)


def _dotted(of: Any, words: str, **look: Any) -> Any:
    return of(words, linestyle=":", fillstyle="none", **look)


def _draw_points(axis: Axes, points: Sequence[dict[str, float]], x: str, y: str, style: dict[str, Any]) -> None:
    axis.plot([point[x] for point in points], [point[y] for point in points], **style)


def _calibrations(group: Group) -> list[dict[str, Any]]:
    return [run.results["calibration"] for run in group.counted if run.results.get("calibration")]


def _first_split(group: Group) -> dict[str, Any] | None:
    """The first dev split of the first run that has a calibration."""
    return next((next(iter(one["splits"].values())) for one in _calibrations(group)), None)


def calibration_table(groups: Sequence[Group]) -> Table:
    """Means and spread over the seeds of the quantities of each split, as trained and at the fitted temperature."""
    rows: list[Row] = []
    for group in groups:
        every = _calibrations(group)
        for split in dict.fromkeys(split for one in every for split in one["splits"]):
            for when, title in (("before", "as trained"), ("after", "at the temperature")):
                row: Row = {"task": group.task, "label": group.label, "split": split, "when": title}
                own = [one for one in every if split in one["splits"]]
                row["temperature"] = mean_of(one["temperature"] for one in own) if when == "after" else None
                for name in QUANTITIES:
                    row |= mean_and_spread(name, [one["splits"][split][when][name] for one in own])
                rows.append(row)
    columns = [("experiment", "label"), ("task", "task"), ("split", "split"), ("probabilities", "when")]
    numbers = (Column(title, (name,), digits=3, spread=name) for name, title in QUANTITIES.items())
    note = (
        f"Of the exported model, less of each is better; {SPREAD}. The numbers at the temperature are cross-fitted: each half "
        "of the examples at the temperature fitted on the other."
    )
    temperature = Column("temperature", ("temperature",), digits=2)
    return Table("calibration", "Calibration", (*(text(*column) for column in columns), temperature, *numbers), rows, note)
