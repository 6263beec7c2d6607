"""One figure per example: how play moves on the left, how exploitable it is after T iterations on the right."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mat_ds.games.examples import Example

# Averages are saturated, what they average is pale.
MIXED, MIXED_PALE = "#0072B2", "#9EC9E2"
PURE, PURE_PALE = "#D55E00", "#F2B48C"
EXACT = "#009E73"

LAST, AVERAGE = 0, 1
# A curve is one kind of player, judged by his last iterate or by the average of all.
COLORS = {
    ("pure", LAST): PURE_PALE,
    ("pure", AVERAGE): PURE,
    ("mixed", LAST): MIXED_PALE,
    ("mixed", AVERAGE): MIXED,
    ("exact", AVERAGE): EXACT,
}
Curves = dict[str, tuple[str, int]]


def png(draw: Callable[[Axes, Example], None], runs: Sequence[Example], shown: Example, curves: Curves) -> bytes:
    """A figure as a PNG file: `draw` makes its left half of the run `shown`, its right half is `curves` of all `runs`."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    draw(left, shown)
    left.set(title=f"{shown.name}, T = {len(shown.bound)}", aspect="equal")
    _exploitability(right, runs, curves)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160, metadata={"Software": None})
    return file.getvalue()


def simplex(axes: Axes, run: Example) -> None:
    """The first player's strategies over three actions."""
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    axes.fill(*corners.T, fill=False, lw=1)
    for (x, y), name in zip(corners, ("rock", "paper", "scissors"), strict=True):
        axes.text(x, y + (0.03 if y else -0.03), name, ha="center", va="bottom" if y else "top")
    axes.plot(*(run.iterates["mixed"][0] @ corners).T, color=MIXED_PALE, lw=1.2)
    axes.plot(*(run.averages["mixed"][0] @ corners).T, color=MIXED, lw=2.2)
    _star(axes, *(run.equilibrium[0] @ corners))
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.1, 0.95))
    axes.axis("off")


def square(axes: Axes, run: Example) -> None:
    """Both players' probabilities of the first of two actions."""
    corners = np.stack([side[:5, 0] for side in run.iterates["pure"]], axis=1)
    for here, there in pairwise(corners):
        arrow = {"arrowstyle": "-|>", "color": PURE_PALE, "lw": 2.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 18}
        axes.annotate("", there, here, arrowprops=arrow)
    axes.plot(*(side[-1, 0] for side in run.averages["pure"]), "o", color=PURE, ms=8)
    axes.plot(*(side[:, 0] for side in run.iterates["mixed"]), color=MIXED_PALE, lw=1.2)
    axes.plot(*(side[:, 0] for side in run.averages["mixed"]), color=MIXED, lw=2.2)
    _star(axes, *(side[0] for side in run.equilibrium))
    axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    axes.set(xlabel="goalkeeper: probability of left", ylabel="kicker: probability of left")


def disc(axes: Axes, run: Example) -> None:
    """Both players' average points: of pure strategies on the rim, of mixtures inside."""
    rim = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    axes.plot(rim.real, rim.imag, color=PURE_PALE, lw=2.2)
    axes.text(0, 0.6, "pure strategies: gradient play\nruns round the rim for ever", ha="center", color=PURE)
    for player, name, where in ((0, "first player", (0, -22)), (1, "second player", (-16, -24))):
        for kind, color, width in (("exact", EXACT, 2.2), ("mixed", MIXED, 1.2)):
            points = run.averages[kind][player]
            axes.plot(points.real, points.imag, color=color, lw=width)
        pure, goal = run.averages["pure"][player][-1], run.equilibrium[player]
        axes.plot(pure.real, pure.imag, "o", color=PURE, ms=8)
        _star(axes, goal.real, goal.imag)
        axes.annotate(name, (goal.real, goal.imag), xytext=where, textcoords="offset points", ha="center")
    axes.set(xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes.set(xlabel="cosine of the angle, averaged", ylabel="sine of the angle, averaged")


def _star(axes: Axes, x: Any, y: Any) -> None:
    axes.plot(x, y, "*", ms=16, mfc="gold", mec="black", zorder=9)


def _exploitability(axes: Axes, runs: Sequence[Example], curves: Curves) -> None:
    iterations = [len(run.bound) for run in runs]
    for label, (kind, which) in curves.items():
        gaps = [run.exploitability[kind][which][-1] for run in runs]
        axes.loglog(iterations, gaps, "o-", color=COLORS[kind, which], lw=2.2 if which == AVERAGE else 1.4, ms=5, label=label)
    axes.loglog(iterations, [run.bound[-1] for run in runs], "--", color="black", lw=1.4, label="bound of Algorithm 1")
    axes.plot([], [], "*", ms=13, mfc="gold", mec="black", label="equilibrium")
    axes.set(title="Exploitability, step size chosen for each T", xlabel="iterations T", ylabel="duality gap")
    axes.legend(loc="lower left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
