"""`mat-ds sweep`: searches a space of options with Optuna; each trial is a training run of its own.

Running the same command again continues the sweep. Several such commands, on one machine or in a SLURM array, share the trials.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.config.names import name_of_file
from mat_ds.config.packaged import SPACES
from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.ranks.exits import attempt
from mat_ds.runs.trainer_names import renamed
from mat_ds.sweeps.launching import Launching, add_arguments, read_launching
from mat_ds.sweeps.pace import Pace
from mat_ds.sweeps.space import Space, extremes, names, overrides, read_space
from mat_ds.terminal.display import Display, one_line
from mat_ds.terminal.layout import table_text, wrapped
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing
from mat_ds.terminal.stop_signals import StopSignals
from mat_ds.terminal.units import whole

if TYPE_CHECKING:
    from mat_ds.sweeps.study import SharedStudy

EXAMPLE = "mat-ds sweep --space mat_table7 --recipe cola_bert --trials 60"
TRIALS = 20


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _search(parse(arguments)))


def _search(parsed: argparse.Namespace) -> ExitCode:
    display = Display(True, parsed.quiet, parsed.json)
    space = read_space(parsed.space)
    launching = read_launching(parsed, [*(name for key in space.options for name in names(key)), "train.resume"])
    check(space, launching)
    with importing(what="Optuna"):
        from mat_ds.sweeps.mirror import tell
        from mat_ds.sweeps.standings import publish
        from mat_ds.sweeps.study import ENDED, SharedStudy
        from mat_ds.sweeps.worker import Worker

    folder = Path(launching.run.output_dir or f"runs/{name_of_file(parsed.space)}")
    study = SharedStudy(folder, space, launching.definition, launching.run.seed)
    limit = parsed.trials or (None if space.sampler == "grid" else TRIALS)
    publish(study, launching)
    total = min(limit or len(space.grid), len(space.grid)) if space.sampler == "grid" else limit or TRIALS
    pace = Pace(display, "trial", total, launching.run, lambda: len(study.trials(*ENDED)))
    with StopSignals() as stop_signals, pace:
        telling = partial(tell, study, launching.run)
        code = Worker(study, launching, stop_signals, telling, partial(_say_with_time, display), pace).work(limit)
    _conclude(study, display)
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("sweep", __doc__, EXAMPLE, renamed)
    parser.add_argument(
        "--space",
        type=SPACES.argument,
        required=True,
        metavar="FILE",
        help=f"YAML of the search space, or the name of one that comes with mat_ds: {', '.join(SPACES.names())}",
    )
    parser.add_argument(
        "--trials",
        type=whole,
        metavar="N",
        help=f"trials of the whole sweep, of all its workers together (default: {TRIALS}; sampler grid: every combination)",
    )
    add_arguments(parser)
    return parser.parse_intermixed_args(arguments)


def check(space: Space, launching: Launching) -> None:
    """Checks that a run accepts every value in the space.

    Raises:
        UserError: naming every value that is not accepted.
    """
    found: dict[str, Problem] = {}
    for name in (name for key in space.options for name in names(key) if name.startswith("tracking")):
        found[name] = Problem(
            name,
            None,
            "the tracking of trials cannot be searched",
            "remove it from the space, and pass it on the command line",
        )
    for key, value in extremes(space):
        for problem in launching.problems(overrides({key: value})):
            found.setdefault(str(problem), problem)
    if found:
        raise UserError(*found.values())


def _say_with_time(display: Display, line: str) -> None:
    now = time.strftime("%H:%M:%S ")
    display.say(wrapped(f"{now}{line}", len(now)))


def _conclude(study: SharedStudy, display: Display) -> None:
    """Shows the table, and how to use the best trial."""
    from mat_ds.sweeps.standings import best_of, table

    if display.json:
        display.conclude(one_line(study.folder / "sweep.json"))
        return
    lines = [f"\n{table_text(table(study))}"]
    if best := best_of(study):
        lines += [
            f"\nbest: {study.folder_of(best.number)}, {study.space.objective} {best.value:.4f}; train with its options:",
            f"    --recipe {study.folder / 'best.yaml'}",
        ]
    display.conclude("\n".join([*lines, f"{study.folder}: sweep.json, trials.csv"]))
