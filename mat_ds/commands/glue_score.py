"""Computes the GLUE score of finished runs: of their best evaluations, their last ones, and the medians of the last half."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mat_ds.errors import ExitCode, Problem, UserError, printable
from mat_ds.storage.reading import load_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show

USAGE = "python -m mat_ds.commands.glue_score runs/<cola run> runs/<sst2 run> ... (one run of each of the eight tasks)"
EVALUATIONS = ("best", "last")
# An evaluation also contains the scores of the weights that are not exported, under these keys.
OTHER_WEIGHTS = ("raw", "average")

Splits = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Scored:
    """The scores of a run.

    Attributes:
        task: its task.
        splits: `best` or `last` -> dev split -> metric -> value; older results only have `best`.
        median: of the task's mean score over the evaluations of the last half, if the results have it.
    """

    task: str
    splits: dict[str, Splits]
    median: float | None


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints each run's dev scores and the GLUE score; returns the exit code.

    The best of many evaluations is biased upwards, so the last one and the median are shown beside it.
    """
    try:
        scored = _read_scores(arguments)
        lines = _lines(scored)
    except UserError as error:
        show(error, sys.stderr)
        return ExitCode.USER_ERROR
    except ValueError as error:
        show(f"{error}\nusage: {USAGE}", sys.stderr)
        return ExitCode.USER_ERROR
    show("\n".join(lines))
    return ExitCode.OK


def _lines(scored: Mapping[str, Scored]) -> list[str]:
    """The table: a row per run with its mean scores in percent and the metrics of its best evaluation, and a total."""
    from mat_ds.tasks.metrics import GLUE_SCORE_TASKS, glue_score, selection_score

    totals = {"best": glue_score({task: run.splits["best"] for task, run in scored.items()})}
    columns = {"best": {task: selection_score(run.splits["best"]) for task, run in scored.items()}}
    if all("last" in run.splits for run in scored.values()):
        totals["last"] = glue_score({task: run.splits["last"] for task, run in scored.items()})
        columns["last"] = {task: selection_score(run.splits["last"]) for task, run in scored.items()}
    medians = {task: run.median for task, run in scored.items() if run.median is not None}
    if len(medians) == len(scored):
        totals["median"] = 100 * mean(medians[task] for task in GLUE_SCORE_TASKS)
        columns["median"] = medians

    def row(label: str, values: Sequence[str], more: str = "") -> str:
        return f"{label:6} {' '.join(f'{value:>6}' for value in values)}  {more}".rstrip()

    lines = [row("", list(totals), "metrics of the best")]
    for task, run in scored.items():
        metrics = ", ".join(
            f"{metric} {100 * value:.1f}" for splits in run.splits["best"].values() for metric, value in splits.items()
        )
        lines.append(row(printable(task), [f"{100 * column[task]:.2f}" for column in columns.values()], printable(metrics)))
    return [*lines, row("GLUE", [f"{total:.2f}" for total in totals.values()])]


def _read_scores(runs: Sequence[str]) -> dict[str, Scored]:
    """Reads the scores of each run, by task."""
    found: dict[str, Scored] = {}
    for run in runs:
        path = RunDirectory(Path(run)).results
        if not path.is_file():
            raise UserError(Problem("run", run, "has no results.json", "pass the folder of a finished run"))
        try:
            scored = _scored(load_json(path))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(Problem("run", run, f"its results.json does not contain scores ({type(error).__name__}: {error})",
                                    "pass the folder of a finished run")) from None  # fmt: skip
        if scored.task in found:
            raise UserError(Problem("run", run, f"is a second run of {scored.task}", "pass one run of each task"))
        found[scored.task] = scored
    return found


def _scored(results: Any) -> Scored:
    splits = {name: _splits(results[name]) for name in EVALUATIONS if name == "best" or name in results}
    median = results.get("median_last_half")
    task = results["task"]
    if not isinstance(task, str):
        raise TypeError("the task is not a text")
    return Scored(task, splits, None if median is None else _finite_score(median))


def _splits(evaluation: Any) -> Splits:
    """The metrics of each dev split in an evaluation."""
    splits = {name: value for name, value in evaluation.items() if isinstance(value, dict) and name not in OTHER_WEIGHTS}
    if not splits or not all(splits.values()):
        raise ValueError("an evaluation without a metric")
    return {name: {metric: _finite_score(value) for metric, value in metrics.items()} for name, metrics in splits.items()}


def _finite_score(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"a score of {value}")
    return float(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
