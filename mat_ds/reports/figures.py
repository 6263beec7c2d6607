"""Figures: box plots over seeds, differences between experiments, and robustness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean
from textwrap import fill
from typing import Any

from matplotlib.patches import Patch

from mat_ds.artifacts.evaluated import quantity_of
from mat_ds.reports.comparison import Comparison
from mat_ds.reports.drawing import (
    BESIDE,
    BLUE,
    KIND_COLOURS,
    KIND_HATCHES,
    Picture,
    legend_below,
    looks,
    picture,
    sample,
    sheet,
)
from mat_ds.reports.groups import Group, one_a_seed, score_axis
from mat_ds.reports.runs import KINDS
from mat_ds.tasks.measures import measure_of
from mat_ds.tasks.registry import TASKS

Points = list[tuple[float, float]]


def box_plot(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Box plots of last, best and median of the last half over the seeds (Figure 3 of the MAT paper), for experiments with
    several finished seeds."""
    several = [group for group in groups if group.finished and len(group.values("last")) > 1]
    if not several:
        return
    looks_of: dict[str, dict[str, Any]] = {
        kind: {"facecolor": KIND_COLOURS[kind], "hatch": KIND_HATCHES[kind], "alpha": 0.6} for kind in KINDS
    }
    labels = [fill(f"{group.label} ({len(group.values('last'))})", BESIDE) for group in reversed(several)]
    lines = max(label.count("\n") for label in labels)
    figure, (axis,) = sheet(1, 1.0 + max(0.62, 0.25 + 0.17 * lines) * len(several))
    for place, group in enumerate(reversed(several)):
        for shift, kind in zip((0.27, 0.0, -0.27), KINDS, strict=True):
            values = group.shown(kind)
            box = axis.boxplot(values, positions=[place + shift], widths=0.2, orientation="horizontal", patch_artist=True,
                               manage_ticks=False, showfliers=False, medianprops={"color": "black"})  # fmt: skip
            box["boxes"][0].set(**looks_of[kind])
            axis.plot(values, [place + shift] * len(values), "o", color="black", markersize=3)
    axis.set_yticks(range(len(several)), labels)
    axis.set_ylim(-0.5, len(several) - 0.5)
    axis.set_xlabel(score_axis(several[0]))
    axis.grid(axis="y", visible=False)
    legend_below(figure, [Patch(edgecolor="black", label=title, **looks_of[kind]) for kind, title in KINDS.items()])
    yield picture(
        figure, task, "seeds", "scores over seeds", "scores over the seeds, their number in brackets; every seed is a dot."
    )


def differences(task: str, comparisons: Sequence[Comparison]) -> Iterator[Picture]:
    """The differences of each comparison, seed by seed, with their mean and interval, beside the margin; a panel a quantity."""
    own = [one for one in comparisons if one.task == task]
    if not own:
        return
    quantities = list(dict.fromkeys(one.quantity for one in own))
    titles = {title: fill(title, BESIDE) for title in dict.fromkeys(one.title for one in own)}
    places = {title: place for place, title in enumerate(reversed(titles))}
    lines = max(title.count("\n") for title in titles.values())
    figure, axes = sheet(len(quantities), 1.0 + (0.4 + 0.17 * lines) * len(titles))
    for axis, quantity in zip(axes, quantities, strict=True):
        shown = [one for one in own if one.quantity == quantity]
        axis.axvline(0, color="gray", linewidth=0.8)
        if margin := shown[0].margin:
            axis.axvspan(-margin, margin, color="gray", alpha=0.15, linewidth=0)
        for one in shown:
            place, found = places[one.title], one.found
            axis.plot(found.differences, [place] * len(found.differences), "o", color="black", markersize=3, alpha=0.5)
            if found.low is not None and found.high is not None:
                reach = [[found.mean - found.low], [found.high - found.mean]]
                axis.errorbar(found.mean, place, xerr=reach, fmt="D", color=BLUE, capsize=4)
        axis.set_yticks(list(places.values()), [titles[title] for title in places])
        axis.set_ylim(-0.5, len(places) - 0.5)
        axis.set_xlabel(f"{quantity}{', less is better' if shown[0].less_is_better else ''}")
        axis.grid(axis="y", visible=False)
    caption = (
        "differences by seed (dots), of three seeds or more with their mean and its 95% interval; grey: the margin within "
        "which a difference does not matter."
    )
    yield picture(figure, task, "differences", "differences, seed by seed", caption)


def robustness(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Scores under embedding attacks and text noise, from the latest `mat-ds evaluate` with the same settings; means over
    seeds, dev splits and kinds of noise."""
    curves: dict[str, dict[Group, list[Points]]] = {}
    quantity = "accuracy, %"
    for group in groups:
        for run in one_a_seed(run for run in group.runs if run.robustness):
            newest: dict[str, Points] = {}
            for report in run.robustness:
                quantity, measured = _curves(report)
                # a gate measures some points of a curve only
                newest |= {title: curve for title, curve in measured.items() if len(curve) >= len(newest.get(title, ()))}
            for title, curve in newest.items():
                curves.setdefault(title, {}).setdefault(group, []).append(curve)
    if not curves:
        return
    attacked = [group for group in groups if any(group in drawn for drawn in curves.values())]
    styles = dict(zip(attacked, looks(len(attacked)), strict=True))
    figure, axes = sheet(len(curves), 2.6, sharey=True)
    for axis, (title, drawn) in zip(axes, curves.items(), strict=True):
        for group, found in drawn.items():
            at: dict[float, list[float]] = {}
            for level, value in (point for curve in found for point in curve):
                at.setdefault(level, []).append(value)
            axis.plot(sorted(at), [mean(at[level]) for level in sorted(at)], **styles[group])
        levels = sorted({level for found in drawn.values() for curve in found for level, _ in curve})
        if "radius" in title and len(levels) > 1:  # logarithmic axis that still shows 0
            axis.set_xscale("symlog", linthresh=levels[1], linscale=0.5)
            axis.set_xticks([], minor=True)
        axis.set_xticks(levels, [f"{level:g}" for level in levels])
        axis.set_xlabel(title)
        axis.set_ylabel(quantity)
    legend_below(figure, [sample(group.label, **style) for group, style in styles.items()])
    yield picture(
        figure,
        task,
        "robustness",
        "robustness",
        "under attack and under noise, measured by mat-ds evaluate; means over "
        "the seeds, the dev splits and the kinds of noise.",
    )


def _curves(report: dict[str, Any]) -> tuple[str, dict[str, Points]]:
    """The quantity measured, and for each axis title its points (level, value)."""
    name, splits, attack = str(report.get("task")), report["splits"], report["attack"]
    dev = [splits[split] for split in (TASKS[name].dev if name in TASKS else splits) if split in splits]
    quantity = str(quantity_of(dev))
    measure = measure_of(quantity)
    scale = 100 if measure.share else 1

    def value(points: Sequence[dict[str, float]]) -> float:
        return scale * mean(point[quantity] for point in points)

    found = {}
    if attack["radii"]:
        ball = {"linf": "L∞", "l2": "L2"}.get(attack["norm"], attack["norm"])
        title = f"{ball} radius in the word embeddings, {attack['steps']} steps of {attack['step_size']:g} radii"
        columns = zip(*(split["attack"] for split in dev), strict=True)
        found[title] = [(radius, value(points)) for radius, points in zip(attack["radii"], columns, strict=True)]
    kinds = [points for split in dev for points in split["noise"].values()]
    if kinds:
        title = f"share of letters or words changed, {len(dev[0]['noise'])} kinds of noise"
        clean = (0.0, value([split["clean"] for split in dev]))
        found[title] = [clean, *((points[0]["rate"], value(points)) for points in zip(*kinds, strict=True))]
    return f"{measure.title}, %" if measure.share else measure.title, found
