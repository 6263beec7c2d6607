"""The figures of a report, one for each task and question."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from mat_ds.reports.drawing import (
    KIND_COLOURS,
    KIND_FILLS,
    KIND_HATCHES,
    Picture,
    house_style,
    legend_below,
    looks,
    picture,
    sheet,
)
from mat_ds.reports.groups import SYMBOLS, Group, group_runs
from mat_ds.reports.runs import KINDS, RunData, read_run
from mat_ds.reports.tables import published
from mat_ds.rundir import RunDirectory, write_bytes

POINTS = 60  # of a curve; steps between them are averaged


def draw(groups: Sequence[Group]) -> Iterator[Picture]:
    """All figures that the runs have data for, a task after the other."""
    with house_style():
        for task in dict.fromkeys(group.task for group in groups):
            own = [group for group in groups if group.task == task]
            yield from learning_curves(task, own)
            yield from box_plot(task, own)
            for key in ("method.theta_steps", "method.lam"):
                yield from ablation(task, own, key)
            yield from robustness(task, own)
            yield from cost(task, own)


def learning_curves(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """L, R with and without the perturbation, and the dev score over outer steps; a line for each run."""
    if not any(run.of("step") for group in groups for run in group.runs):
        return
    measured = any("R" in record for group in groups for run in group.runs for record in run.of("telemetry"))
    figure, axes = sheet(2 + measured, 2.1, sharex=True)
    styles = looks(len(groups))
    for group, style in zip(groups, styles, strict=True):
        line = {"color": style["color"], "linestyle": style["linestyle"], "alpha": 0.9 if len(group.runs) == 1 else 0.6}
        for run in group.runs:
            axes[0].plot(*_thinned(run, "step", "L"), **line)
            axes[-1].plot([e["step"] for e in run.evaluations], [100 * e["score"] for e in run.evaluations],
                          marker=style["marker"], **line)  # fmt: skip
            if measured:
                axes[1].plot(*_thinned(run, "telemetry", "R"), marker=style["marker"], **line)
                axes[1].plot(*_thinned(run, "telemetry", "R_without"), **{**line, "linestyle": (0, (1, 3))})
    axes[0].set_ylabel("loss L")
    if measured:
        axes[1].set_ylabel("divergence R")
        axes[1].set_yscale("log")
        axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[-1].set_ylabel("dev score, %")
    axes[-1].set_xlabel("outer steps")
    legend_below(figure, {group.label: style for group, style in zip(groups, styles, strict=True)})
    dotted = " R with the perturbation has markers, R without it is dotted." if measured else ""
    yield picture(figure, f"{task}-curves", f"{task}: learning curves, a line for each run.{dotted}")


def plot_run(folder: RunDirectory) -> None:
    """The learning curves of one run into its `plots/`."""
    with house_style():
        for drawn in learning_curves("run", group_runs([read_run(folder.path, folder.path.name)])):
            write_bytes(folder.plots / "learning_curves.png", drawn.png)


def _thinned(run: RunData, event: str, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a quantity, where it is positive and finite, averaged to at most so many points."""
    found = [(float(r["step"]), float(r[name])) for r in run.of(event) if isinstance(r.get(name), (int, float))]
    width = max(1, -(-len(found) // POINTS))
    bins = [found[i : i + width] for i in range(0, len(found), width)]
    return [mean(step for step, _ in part) for part in bins], [mean(value for _, value in part) for part in bins]


def box_plot(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Last, best and median of the last half over the seeds (Figure 3 of the paper), where there is more than one."""
    several = [group for group in groups if len(group.values("last")) > 1]
    if not several:
        return
    figure, (axis,) = sheet(1, 1.2 + 0.5 * len(several))
    for place, group in enumerate(reversed(several)):
        for shift, kind in zip((0.27, 0.0, -0.27), KINDS, strict=True):
            values = [100 * value for value in group.values(kind)]
            box = axis.boxplot(values, positions=[place + shift], widths=0.2, orientation="horizontal", patch_artist=True,
                               manage_ticks=False, showfliers=False, medianprops={"color": "black"})  # fmt: skip
            box["boxes"][0].set(facecolor=KIND_COLOURS[kind], alpha=0.55, hatch=KIND_HATCHES[kind])
            axis.plot(values, [place + shift] * len(values), ".", color="black", markersize=4)
    axis.set_yticks(range(len(several)), [f"{group.label} ({len(group.values('last'))})" for group in reversed(several)])
    axis.set_xlabel("dev score, %")
    axis.grid(axis="y", visible=False)
    legend_below(figure, {title: _patch(kind) for kind, title in KINDS.items()})
    yield picture(figure, f"{task}-seeds", f"{task}: scores over the seeds, their number in brackets; every seed is a dot.")


def _patch(kind: str) -> dict[str, Any]:
    return {"color": KIND_COLOURS[kind], "linewidth": 7, "alpha": 0.6}


def ablation(task: str, groups: Sequence[Group], key: str) -> Iterator[Picture]:
    """The score over K or lambda (Tables 4 and 5 of the paper), where runs differ in nothing else."""
    both = {key, "method.delta_steps"} if key == "method.theta_steps" else {key}
    families: dict[str, list[Group]] = {}
    for group in groups:
        if group.method == "mat" and group.values("last"):
            rest = json.dumps({name: value for name, value in group.options.items() if name not in both}, sort_keys=True)
            families.setdefault(rest, []).append(group)
    for number, family in enumerate(family for family in families.values() if len({g.options[key] for g in family}) > 1):
        family = sorted(family, key=lambda group: float(group.options[key]))
        figure, (axis,) = sheet(1, 2.6)
        for kind in KINDS:
            means = [100 * (group.mean(kind) or 0.0) for group in family]
            axis.plot([group.options[key] for group in family], means, color=KIND_COLOURS[kind], marker="o",
                      fillstyle=KIND_FILLS[kind])  # fmt: skip
        entries: dict[str, dict[str, Any]] = {
            title: {"color": KIND_COLOURS[kind], "marker": "o", "fillstyle": KIND_FILLS[kind]} for kind, title in KINDS.items()
        }
        if quoted := published()["ablations"][key].get(task):
            axis.plot(list(quoted), list(quoted.values()), color="gray", linestyle=":", marker="x")
            entries["published, BERT-base, best"] = {"color": "gray", "linestyle": ":", "marker": "x"}
        axis.set_xscale("symlog", linthresh=min(abs(float(g.options[key])) or 1.0 for g in family))
        ticks = sorted({*(float(group.options[key]) for group in family), *(quoted or ())})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
        name = SYMBOLS[key] if len(both) == 1 else "K of the parameters (of the perturbation as in the run)"
        axis.set_xlabel(name)
        axis.set_ylabel("dev score, %")
        legend_below(figure, entries)
        suffix = f"-{number + 1}" if number else ""
        yield picture(figure, f"{task}-{key.rpartition('.')[2]}{suffix}", f"{task}: what {SYMBOLS[key]} does to MAT.")


def robustness(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Accuracy under attack on the embeddings, by the newest report of `mat-ds evaluate` of each run."""
    reports = [(group, run.robustness[-1]) for group in groups for run in group.runs if run.robustness]
    curves = [(group, report) for group, report in reports if len(report["attack"]["radii"]) > 1]
    for norm in dict.fromkeys(report["attack"]["norm"] for _, report in curves):
        own = [(group, report) for group, report in curves if report["attack"]["norm"] == norm]
        drawn = list(dict.fromkeys(group.label for group, _ in own))
        styles = dict(zip(drawn, looks(len(drawn)), strict=True))
        figure, (axis,) = sheet(1, 2.8)
        for group, report in own:
            split = next(iter(report["splits"].values()))
            radii = report["attack"]["radii"]
            quantity = "accuracy" if "accuracy" in split["attack"][0] else "mse"
            scale = 100 if quantity == "accuracy" else 1
            axis.plot(radii, [scale * point[quantity] for point in split["attack"]], **styles[group.label])
            _radii(axis, radii)
            axis.set_ylabel("accuracy, %" if quantity == "accuracy" else "squared error")
        axis.set_xlabel(f"{norm} radius in the word embeddings, {own[0][1]['attack']['steps']} steps")
        legend_below(figure, styles)
        yield picture(figure, f"{task}-robustness-{norm}", f"{task}: under attack (`mat-ds evaluate`), a line for each run.")


def _radii(axis: Axes, radii: Sequence[float]) -> None:
    """Logarithmic, with room for the 0."""
    axis.set_xscale("symlog", linthresh=radii[1], linscale=0.5)
    axis.set_xticks(radii, [f"{radius:g}" for radius in radii])
    axis.set_xticks([], minor=True)


def cost(task: str, groups: Sequence[Group]) -> Iterator[Picture]:
    """Score against what it cost, in forward passes; median of the last half, with a line from last to best."""
    known = [group for group in groups if group.values("last") and all(run.passes for run in group.counted)]
    if len(known) < 2:
        return
    figure, (axis,) = sheet(1, 2.8)
    styles = looks(len(known))
    for group, style in zip(known, styles, strict=True):
        passes = mean(run.passes or 0.0 for run in group.counted)
        last, best, middle = (100 * (group.mean(kind) or 0.0) for kind in ("last", "best", "median"))
        axis.plot([passes] * 2, [min(last, middle), best], color=style["color"], linewidth=1)
        axis.plot(passes, middle, marker=style["marker"], color=style["color"], linestyle="none", markersize=7)
        axis.plot(passes, last, marker="_", color=style["color"], markersize=9)
    axis.set_xscale("log")
    axis.set_xlabel("forward passes of one example, in all")
    axis.set_ylabel("dev score, %")
    legend_below(figure, {g.label: {**s, "linestyle": "none"} for g, s in zip(known, styles, strict=True)})
    caption = f"{task}: score against cost. Marker: median of the last half; dash: last; the line ends at the best."
    yield picture(figure, f"{task}-cost", caption)
