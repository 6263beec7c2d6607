"""`python -m examples.games [folder]`: plays three games, prints how exploitable each player ends up, and draws it."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from examples.games import circle
from examples.games.finite import PENALTY_KICK, ROCK_PAPER_SCISSORS, Array, Pair
from mat_ds.config.paths import path_argument
from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.storage.disk import write_bytes

ITERATIONS = (10, 32, 100, 316, 1000, 3162, 10_000)
SHOWN = 1000
# Of the iterates, pale, and of their average; the width of its line.
LINES = {"pure": ("#F2B48C", "#D55E00", 2.2), "mixed": ("#9EC9E2", "#0072B2", 2.6), "sampled": ("#A9DCC9", "#009E73", 1.4)}


class Example(NamedTuple):
    """A game, who plays it, and its picture in the complex plane: of strategies, an outline around them, and texts."""

    exploitability: Callable[[Array, Array], Array]
    bound: Callable[[int], float]
    players: dict[str, Callable[[int], Pair]]
    equilibrium: Pair
    points: Callable[[Array, Array], Array]
    outline: Array
    texts: dict[complex, str]


TRIANGLE, SQUARE = np.array([0, 1, 0.5 + 0.75**0.5 * 1j, 0]), np.array([0, 1, 1 + 1j, 1j, 0])
EXAMPLES = {
    "rock_paper_scissors": Example(
        ROCK_PAPER_SCISSORS.exploitability, ROCK_PAPER_SCISSORS.bound, {"mixed": ROCK_PAPER_SCISSORS.mirror_descent},
        (np.full(3, 1 / 3), np.full(3, 1 / 3)), lambda x, y: (x @ TRIANGLE[:3])[..., None], TRIANGLE,
        {-0.05j: "rock", 1 - 0.05j: "paper", 0.5 + 0.91j: "scissors"},
    ),
    "penalty_kick": Example(
        PENALTY_KICK.exploitability, PENALTY_KICK.bound,
        {"pure": PENALTY_KICK.best_responses, "mixed": PENALTY_KICK.mirror_descent},
        (np.array([5, 7]) / 12, np.array([23, 37]) / 60), lambda x, y: (x + 1j * y)[..., :1], SQUARE,
        {-0.05j: "both right", 1 - 0.05j: "only keeper left", 1.05j: "only kicker left", 1 + 1.05j: "both left"},
    ),
    "angles": Example(
        circle.exploitability, circle.GRID.bound,
        {"pure": circle.gradient_play, "mixed": circle.mirror_descent, "sampled": circle.langevin_play},
        circle.EQUILIBRIUM, lambda u, v: np.stack([u, v], -1), np.exp(2j * np.pi * np.linspace(0, 1, 200)),
        {-0.62j: "first player", -0.7 - 0.12j: "second player", 0.7j: "pure strategies\nkeep to the rim"},
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.games", description="Algorithm 1 of MAT on three small games.")
    parser.add_argument(
        "folder", nargs="?", type=path_argument, default=Path("runs/games"), help="for the figures (%(default)s)"
    )
    folder = parser.parse_args(arguments).folder
    print("Duality gap after T iterations, each T with the step size that theory wants for it")
    for name, example in EXAMPLES.items():
        gaps = {kind: judge(example.exploitability, play) for kind, play in example.players.items()}
        try:
            write_bytes(folder / f"{name}.png", draw(name, example, gaps))
        except OSError as error:
            fix = "name a folder for the figures"
            print(UserError(Problem("folder", str(folder), f"cannot be written to: {error.strerror}", fix)), file=sys.stderr)
            return ExitCode.USER_ERROR
        print(f"\n{folder / name}.png\n{'':19}" + "".join(f"{kind:>20}" for kind in gaps))
        print(f"{'T':>9}{'bound':>10}" + f"{'last':>10}{'average':>10}" * len(gaps))
        for iterations, row in zip(ITERATIONS, np.hstack(list(gaps.values())), strict=True):
            print(f"{iterations:9}{example.bound(iterations):10.4f}" + "".join(f"{gap:10.4f}" for gap in row))
    return ExitCode.OK


def judge(gap: Callable[[Array, Array], Array], play: Callable[[int], Pair]) -> Array:
    """The duality gaps of the last iterates and of the averages of all, shape (ITERATIONS, 2)."""
    return np.array([[gap(x[-1], y[-1]), gap(x.mean(0), y.mean(0))] for x, y in map(play, ITERATIONS)])


def draw(name: str, example: Example, gaps: dict[str, Array]) -> bytes:
    """A PNG file: on the left how play moves in SHOWN iterations, on the right how exploitable it ends after T."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    left.plot(example.outline.real, example.outline.imag, color="black", lw=1)
    for kind, play in example.players.items():
        pale, strong, width = LINES[kind]
        points = example.points(*play(SHOWN))
        averages = points.cumsum(0) / np.arange(1, SHOWN + 1)[:, None]
        if kind != "sampled":  # its single samples would hide all else
            left.plot(points.real, points.imag, color=pale, lw=1.2)
        left.plot(averages.real, averages.imag, color=strong, lw=width, zorder=3)
        right.loglog(ITERATIONS, gaps[kind][:, 0], "o-", color=pale, lw=1.2, ms=5, label=f"{kind}: last")
        right.loglog(ITERATIONS, gaps[kind][:, 1], "o-", color=strong, lw=width, ms=5, label=f"{kind}: average")
    right.loglog(ITERATIONS, list(map(example.bound, ITERATIONS)), "k--", lw=1.4, label="bound of Algorithm 1")
    for axes, goal in (left, example.points(*example.equilibrium)), (right, np.empty(0)):
        axes.plot(goal.real, goal.imag, "*", ms=15, mfc="gold", mec="black", zorder=4, label="equilibrium")
    for place, text in example.texts.items():
        left.text(place.real, place.imag, text, ha="center", va="center")
    left.set_title(f"{name.replace('_', ' ').capitalize()}, T = {SHOWN}", pad=14)
    left.set(aspect="equal", frame_on=False, xticks=(), yticks=())
    right.set(title="Exploitability, step size chosen for each T", xlabel="iterations T", ylabel="duality gap")
    right.legend(loc="lower left", frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(file := io.BytesIO(), format="png", dpi=160)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
