"""Learning curves of a task's runs over outer steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from mat_ds.methods import METHODS
from mat_ds.reports.drawing import Picture, house_style, legend_below, looks, picture, sample, sheet
from mat_ds.reports.groups import Group, score_axis
from mat_ds.reports.labels import group_runs
from mat_ds.reports.reliability import reliability
from mat_ds.reports.runs import RunData, read_run
from mat_ds.reports.table import Column, Row, Table, text
from mat_ds.storage.disk import write_bytes
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.measures import LOSS, dev_loss

PART = "curves"
POINTS = 60  # of a curve; steps between them are averaged
SHOWN = 8  # experiments in a figure; more cannot be told apart
# Title -> event and quantity. R of every step replaces that of the telemetry if the method minimises it.
QUANTITIES = {
    "loss L": ("step", "L"),
    "R, perturbed": ("telemetry", "R"),
    "R, not perturbed": ("telemetry", "R_without"),
    "distance of chains": ("telemetry", "chains_apart"),
    "dev loss": ("evaluation", "loss"),
}


class Curve(NamedTuple):
    """Steps, with mean, minimum and maximum over the seeds."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def learning_curves(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Figure over outer steps: L, R with and without the perturbation, how far several chains are from their mean before they
    meet, and the dev score."""
    found = {group: curves_of(group) for group in groups if any(run.of("step") for run in group.runs)}
    if not found:
        return
    kept = sorted(found, key=_rank, reverse=True)[:SHOWN]
    styles = dict(zip([group for group in found if group in kept], looks(len(kept)), strict=True))
    measured, apart = (
        any(found[group][title].steps for group in styles) for title in ("R, not perturbed", "distance of chains")
    )
    figure, axes = sheet(2 + measured + apart, 2.1, sharex=True)
    for group, style in styles.items():
        curves = found[group]
        _draw_curve(axes[0], curves["loss L"], {**style, "marker": ""})
        if curves["dev loss"].steps:
            _draw_curve(axes[0], curves["dev loss"], {**style, "linestyle": "--", "fillstyle": "none"})
        if curves["distance of chains"].steps:
            _draw_curve(axes[-2], curves["distance of chains"], style)
        _draw_curve(axes[-1], curves[score_axis(group)], style)
        if measured:
            _draw_curve(axes[1], curves["R, perturbed"], {**style, "linestyle": "-"})
            _draw_curve(axes[1], curves["R, not perturbed"], {**style, "linestyle": ":", "fillstyle": "none"})
    axes[0].set_ylabel("loss L")
    legend = [sample(f"{g.label}{'' if g.finished else ', unfinished'}", **style) for g, style in styles.items()]
    if any(found[group]["dev loss"].steps for group in styles):
        legend += [sample("dev loss", color="gray", marker="o", fillstyle="none", linestyle="--")]
    if measured:
        axes[1].set_ylabel("divergence R")
        _logarithmic(axes[1])
        legend += [
            sample("R, perturbed", color="gray", marker="o"),
            sample("R, not perturbed", color="gray", marker="o", fillstyle="none", linestyle=":"),
        ]
    if apart:
        axes[-2].set_ylabel("distance of chains")
    axes[-1].set_ylabel(score_axis(kept[0]))
    axes[-1].set_xlabel("outer steps")
    legend_below(figure, legend)
    yield picture(figure, task, PART, "learning curves", _caption(len(found), kept))


def _rank(group: Group) -> float:
    score = group.mean("median")
    return -math.inf if score is None else score


def _caption(drawn: int, kept: Sequence[Group]) -> str:
    several = any(len(group.seeds) > 1 for group in kept)
    seeds = "; means over the seeds, shaded from the lowest to the highest" if several else ""
    best = f" Of {drawn} experiments the {len(kept)} with the highest median scores." if len(kept) < drawn else ""
    return f"learning curves{seeds}.{best}"


def _draw_curve(axis: Axes, curve: Curve, style: dict[str, Any]) -> None:
    every = max(1, len(curve.steps) // 12)
    axis.plot(curve.steps, curve.mean, markevery=every, **style)
    if curve.low != curve.high:
        axis.fill_between(curve.steps, curve.low, curve.high, color=style["color"], alpha=0.13, linewidth=0)


def _logarithmic(axis: Axes) -> None:
    """Makes the y axis logarithmic, but able to show zeros (R without dropout and perturbation)."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.get_lines()])
    positive = values[values > 0]
    if not len(positive):
        return
    least = float(positive.min())
    if len(positive) < len(values):
        axis.set_yscale("symlog", linthresh=least, linscale=0.4)
    else:
        axis.set_yscale("log")
        if positive.max() < 100 * least:  # less than two decades: label 1, 2, 5
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(lambda value, _: "" if 0 < value < 0.9 * least else f"{value:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: "")


def curves_of(group: Group) -> dict[str, Curve]:
    """The curves of a group by title; a quantity that no run has is an empty curve."""
    curves = {title: _curve(group.seeds, *of) for title, of in QUANTITIES.items()}
    curves[score_axis(group)] = _curve(group.seeds, "evaluation", "score")
    minimised = _curve(group.seeds, "step", "R")
    if minimised.steps:
        curves["R, perturbed" if _perturbs(group) else "R, not perturbed"] = minimised
    return curves


def _perturbs(group: Group) -> bool:
    """Whether the method has a perturbation; R of R-Drop is between two clean passes."""
    measured = any("delta_linf" in record for run in group.runs for record in run.of("telemetry"))
    return measured or (group.method in METHODS and METHODS[group.method].perturbs())


def _curve(runs: Sequence[RunData], event: str, name: str) -> Curve:
    at: dict[int, list[float]] = {}
    for run in runs:
        for record in run.of(event):
            value = dev_loss(record) if name == LOSS else record.get(name)
            scale = run.factor() if name == "score" else 1
            perturbed = event != "telemetry" or name != "R" or "delta_linf" in record
            if perturbed and isinstance(value, (int, float)) and math.isfinite(value):
                at.setdefault(record["step"], []).append(scale * value)
    steps = sorted(at)
    width = max(1, -(-len(steps) // POINTS))
    parts = [steps[i : i + width] for i in range(0, len(steps), width)]
    ways = (mean, min, max)
    return Curve([mean(part) for part in parts], *([mean(way(at[s]) for s in part) for part in parts] for way in ways))


def curves_table(groups: Sequence[Group]) -> Table:
    """The points of all curves, also of those not drawn; only written as CSV."""
    rows: list[Row] = [
        {"task": group.task, "label": group.label, "quantity": title, "step": step, "mean": middle, "low": low, "high": high}
        for group in groups
        for title, curve in curves_of(group).items()
        for step, middle, low, high in zip(*curve, strict=True)
    ]
    columns = [text(name, key) for name, key in (("task", "task"), ("experiment", "label"), ("quantity", "quantity"))]
    columns += [Column(name, (name,)) for name in ("step", "mean", "low", "high")]
    return Table("curves", "Learning curves", tuple(columns), rows, shown=False)


def plot_run(folder: RunDirectory) -> None:
    """Writes the learning curves of one run, and its reliability diagram, to its `plots/`."""
    run = read_run(folder.path, folder.path.name)
    groups = group_runs([run])
    with house_style():
        for drawn in learning_curves(run.task, groups):
            write_bytes(folder.plots / "learning_curves.png", drawn.png)
        for drawn in reliability(run.task, groups):
            write_bytes(folder.plots / "calibration.png", drawn.png)
