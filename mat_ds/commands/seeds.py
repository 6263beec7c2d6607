"""`mat-ds seeds`: trains one set of options with several seeds, and shows mean and spread of the dev scores.

Running the same command again trains the seeds that are not finished. Several such commands, on one machine or in a SLURM
array, share the seeds. A single seed or the best of many evaluations says little, so last, best and the median of the last half
are shown together.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mat_ds.config.names import name_of_file
from mat_ds.errors import ExitCode, UserError, raise_if_any
from mat_ds.ranks.exits import attempt
from mat_ds.runs.trainer_names import renamed
from mat_ds.storage.disk import write_json
from mat_ds.storage.leases import LOOK
from mat_ds.storage.reading import read_json
from mat_ds.sweeps.launching import Launching, add_arguments, read_launching, redefined
from mat_ds.sweeps.mirror import tracking_options
from mat_ds.sweeps.pace import Pace
from mat_ds.sweeps.training import (
    SCORES,
    End,
    Scores,
    Turn,
    claim,
    is_claimed,
    is_unclear,
    results_of,
    scores_of,
    train_until_done,
)
from mat_ds.terminal.display import Display, one_line
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.stop_signals import StopSignals
from mat_ds.terminal.units import positive, whole

EXAMPLE = "mat-ds seeds --recipe cola_bert --seeds 5 output_dir=runs/cola-seeds"
# Name of the file with everything that the seeds of a folder have in common.
DEFINITION = "definition.json"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code: 0; 75 if interrupted; 2 for wrong input; 1 if a seed failed."""
    return attempt(lambda: _train_seeds(parse(arguments)))


def _train_seeds(parsed: argparse.Namespace) -> ExitCode:
    display = Display(True, parsed.quiet, parsed.json)
    launching = read_launching(parsed, ["seed", "train.resume"])
    if parsed.against:  # one that holds no runs is refused before hours of training
        from mat_ds.reports.runs import read_runs

        read_runs([parsed.against])
    named = launching.run.output_dir or f"runs/{name_of_file(parsed.recipe or Path(launching.run.task))}-seeds"
    seeds = Seeds(Path(named), range(parsed.seeds), launching, display)
    seeds.define()
    with StopSignals() as stop_signals:
        code = seeds.train(stop_signals)
    lines, comparisons = seeds.compare(parsed.against, parsed.margin) if parsed.against else ([], None)
    if summary := seeds.publish(comparisons):
        found = seeds.folder / "seeds.json"
        told = "\n".join([table_text(summary), *lines, f"{found}: {seeds.progress()}"])
        display.conclude(one_line(found) if display.json else f"\n{told}")
    return code


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("seeds", __doc__, EXAMPLE, renamed)
    parser.add_argument("--seeds", type=whole, default=5, metavar="N", help="seeds 0 to N - 1 (default: 5)")
    parser.add_argument("--against", type=Path, metavar="RUNS", help="compare the seeds with these runs, seed by seed")
    parser.add_argument(
        "--margin",
        type=positive,
        default=1.0,
        metavar="POINTS",
        help="a difference that does not matter, in points (default: 1)",
    )
    add_arguments(parser)
    return parser.parse_intermixed_args(arguments)


@dataclass(frozen=True)
class Seeds:
    """The runs of several seeds.

    Attributes:
        folder: contains all of them; seed 3 is in `seed-3`.
        numbers: the seeds.
        launching: everything else they have in common.
        display: shows their progress.
    """

    folder: Path
    numbers: Sequence[int]
    launching: Launching
    display: Display

    def folder_of(self, seed: int) -> Path:
        """The run directory of a seed."""
        return self.folder / f"seed-{seed}"

    def define(self) -> None:
        """Writes the definition of the seeds, or compares it with the existing one.

        Raises:
            UserError: if the folder contains seeds, or a run, with other options.
        """
        definition, file = self.launching.definition, self.folder / DEFINITION
        definition["options"].pop("seed")
        with Turn(self.folder):
            if os.path.lexists(file):
                before = read_json(file, "bring it back from a copy, or start anew with another output_dir")
                raise_if_any(redefined(before, definition, f"what was trained in {self.folder}"))
            raise_if_any(
                problem for seed in self.numbers for problem in self.launching.foreign([f"seed={seed}"], self.folder_of(seed))
            )
            write_json(file, definition)

    def train(self, stop_signals: StopSignals) -> ExitCode:
        """Trains every seed that is neither finished nor being trained by another process."""
        with Pace(self.display, "seed", len(self.numbers), self.launching.run, self._ended) as pace:
            return self._train_all(stop_signals, pace)

    def _ended(self) -> int:
        return sum(results_of(self.folder_of(seed)) is not None for seed in self.numbers)

    def _train_all(self, stop_signals: StopSignals, pace: Pace) -> ExitCode:
        failed, code = [], ExitCode.FAILED
        for seed in self.numbers:
            folder = self.folder_of(seed)
            if stop_signals.received:
                return ExitCode.REQUEUE
            if results_of(folder):
                continue
            unclear, claimed = is_unclear(folder), claim(folder)
            while unclear and not claimed and not stop_signals.received:
                time.sleep(LOOK)
                unclear, claimed = is_unclear(folder), claim(folder)  # in this order: a lease may expire between the two
            if not claimed:
                self.display.say(f"{folder.name} is being trained by another process")
                continue
            try:
                end = self._train(seed, folder, stop_signals, pace)
                claimed.check()
            finally:
                claimed.release()
            if end.interrupted:
                self.display.say(f"{folder.name} is saved, and continues when this command is run again")
                return ExitCode.REQUEUE
            if end.results:
                self.publish()
                continue
            self.display.warn(f"{folder.name} failed: {end.reason}")
            failed.append(seed)
            if end.code == ExitCode.USER_ERROR:  # the other seeds would fail in the same way
                code = ExitCode.USER_ERROR
                break
        return code if failed else ExitCode.OK

    def _train(self, seed: int, folder: Path, stop_signals: StopSignals, pace: Pace) -> End:
        verb = "goes on" if (folder / "config.yaml").exists() else "begins"
        self.display.say(f"{folder.name} {verb} ({pace.begins(1 + self.numbers.index(seed))})")
        options = [f"seed={seed}", *tracking_options(self.launching.run, self.folder, seed, None)]
        scores, shown = Scores(folder), 0

        def look() -> bool:
            nonlocal shown
            found = scores()
            for step, score in found[shown:]:
                self.display.say(f"{folder.name} step {step}: score {score:.4f}")
            shown = len(found)
            pace.follow(scores.latest)
            return stop_signals.received is not None

        return train_until_done(lambda: self.launching.command(folder, options), folder, look, self.display.say)

    def progress(self) -> str:
        """The number of finished seeds, and the names of those that other processes are training."""
        unfinished = [folder for folder in map(self.folder_of, self.numbers) if not results_of(folder)]
        elsewhere = [folder.name for folder in unfinished if is_claimed(folder)]
        done = f"{len(self.numbers) - len(unfinished)} of {len(self.numbers)} seeds finished"
        return f"{done}; trained by other processes: {', '.join(elsewhere)}" if elsewhere else done

    def compare(self, against: Path, margin: float) -> tuple[list[str], list[dict[str, Any]]]:
        """What the finished seeds differ in from other runs of the same seeds, as lines of text and as JSON."""
        from mat_ds.reports.comparison import compare_folders
        from mat_ds.reports.comparison_table import comparison_lines

        if not any(results_of(self.folder_of(seed)) for seed in self.numbers):
            return [], []
        try:
            found = compare_folders(self.folder, against, margin)
        except UserError as error:  # the seeds are trained, whatever those runs are
            self.display.warn(str(error))
            return [], []
        if not found:
            self.display.warn(f"{against} has no finished run of this task and dev set, with a seed in common")
        return list(comparison_lines(found)), [one.record for one in found]

    def publish(self, comparisons: list[dict[str, Any]] | None = None) -> list[list[Any]]:
        """Writes `seeds.json` and returns a table of the finished seeds; empty if there are none.

        Args:
            comparisons: with other runs, if they were asked for.
        """
        with Turn(self.folder):
            finished = {seed: results for seed in self.numbers if (results := results_of(self.folder_of(seed)))}
            if not finished:
                return []
            scores = {seed: scores_of(results) for seed, results in finished.items()}
            summary = {name: spread([found[name] for found in scores.values()]) for name in SCORES}
            first = next(iter(finished.values()))
            write_json(self.folder / "seeds.json", {
                "name": self.folder.name, "task": first["task"], "method": first["method"], "asked": len(self.numbers),
                "runs": [{"seed": seed, "run": self.folder_of(seed).name, **found} for seed, found in scores.items()],
                "summary": summary, **({} if comparisons is None else {"comparisons": comparisons}),
            })  # fmt: skip
        rows: list[list[Any]] = [["seed", *SCORES], *([seed, *found.values()] for seed, found in scores.items())]
        rows += [[statistic, *(summary[name][statistic] for name in SCORES)] for statistic in summary["last"]]
        return rows


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, sample standard deviation (divisor n - 1; None for two seeds, which say nothing about it), minimum and maximum."""
    deviation = stdev(values) if len(values) > 2 else None
    return {"mean": mean(values), "std": deviation, "min": min(values), "max": max(values)}
