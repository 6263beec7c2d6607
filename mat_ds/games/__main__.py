"""`python -m mat_ds.games [folder]`: plays the three examples, prints how exploitable they end, draws them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.games import examples, figures
from mat_ds.games.examples import Example
from mat_ds.games.figures import AVERAGE, LAST, Curves
from mat_ds.rundir import write_bytes

ITERATIONS = (10, 32, 100, 316, 1000, 3162, 10_000)
SHOWN = 1000

PURE: Curves = {"pure: last": ("pure", LAST), "pure: average": ("pure", AVERAGE)}
MIXED: Curves = {"mixed: last": ("mixed", LAST), "mixed: average": ("mixed", AVERAGE)}
SAMPLED: Curves = {
    "mixed, exact densities: average": ("exact", AVERAGE),
    "mixed, Langevin samples: average": ("mixed", AVERAGE),
}
FIGURES = {
    "rock_paper_scissors": (examples.rock_paper_scissors, figures.simplex, MIXED),
    "penalty_kick": (examples.penalty_kick, figures.square, PURE | MIXED),
    "angles": (examples.angles, figures.disc, PURE | SAMPLED),
}


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mat_ds.games", description="Algorithm 1 of MAT on three small games.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/games"), help="for the figures (%(default)s)")
    folder = parser.parse_args(arguments).folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runs = {name: [play(iterations) for iterations in ITERATIONS] for name, (play, _, _) in FIGURES.items()}
        for name, (_, draw, curves) in FIGURES.items():
            shown = runs[name][ITERATIONS.index(SHOWN)]
            write_bytes(folder / f"{name}.png", figures.png(draw, runs[name], shown, curves))
    except OSError as error:
        print(UserError(Problem("folder", str(folder), f"cannot be written to: {error.strerror}",
                                "name a folder for the figures")), file=sys.stderr)  # fmt: skip
        return ExitCode.USER_ERROR
    _print_table(list(runs.values()))
    print(f"\nfigures: {', '.join(str(folder / f'{name}.png') for name in runs)}")
    return ExitCode.OK


def _print_table(games: Sequence[Sequence[Example]]) -> None:
    print("Duality gap after T iterations, each T with the step size that theory wants for it\n")
    print(f"{'':20}{'mixed strategies':^26}  {'pure strategies':^17}")
    print(f"{'T':>19} {'average':>8} {'bound':>8} {'last':>8}  {'average':>8} {'last':>8}")
    for runs in games:
        print(runs[0].name)
        for run in runs:
            (last, average), (pure_last, pure_average) = (run.exploitability[kind] for kind in ("mixed", "pure"))
            print(f"{len(run.bound):19} {average[-1]:8.4f} {run.bound[-1]:8.4f} {last[-1]:8.4f}  "
                  f"{pure_average[-1]:8.4f} {pure_last[-1]:8.4f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
