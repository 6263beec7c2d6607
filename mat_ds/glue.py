"""From finished runs to one GLUE score."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mat_ds.config.paths import expanded
from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.rundir import RunDirectory

USAGE = "python launch/glue_score.py runs/<cola run> runs/<sst2 run> ... (one run of each of the eight tasks)"


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints each run's dev scores of its best step, and the GLUE score over them; returns the exit code."""
    try:
        scores = _scores(arguments)
        from mat_ds.tasks.metrics import glue_score

        total = glue_score(scores)
    except UserError as error:
        print(error, file=sys.stderr)
        return ExitCode.USER_ERROR
    except ValueError as error:
        print(f"{error}\nusage: {USAGE}", file=sys.stderr)
        return ExitCode.USER_ERROR
    for task, splits in scores.items():
        shown = ", ".join(f"{100 * value:.1f}" for metrics in splits.values() for value in metrics.values())
        print(f"{task:6} {shown}")
    print(f"GLUE   {total:.2f}")
    return ExitCode.OK


def _scores(runs: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Task -> dev split -> metric -> value, each run at its best step."""
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        path = RunDirectory(Path(expanded(run))).results
        if not path.exists():
            raise UserError(Problem("run", run, "holds no results.json", "pass the folder of a run that has ended"))
        results = json.loads(path.read_text(encoding="utf-8"))
        if results["task"] in scores:
            raise UserError(Problem("run", run, f"is a second run of {results['task']}", "pass one run of each task"))
        scores[results["task"]] = {name: value for name, value in results["best"].items() if isinstance(value, dict)}
    return scores
