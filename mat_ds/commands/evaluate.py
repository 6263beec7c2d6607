"""`mat-ds evaluate`: measures a model's scores, and its robustness to embedding attacks and to noise in the text.

With --require it is a gate: the exit code is 4 if the model does not meet the conditions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mat_ds.config.paths import argument
from mat_ds.config.validation import read_options
from mat_ds.errors import ExitCode, Problem, collect_problems, raise_if_any
from mat_ds.evaluation.gate.conditions import MEANING as REQUIRED
from mat_ds.evaluation.gate.conditions import alone_problems, completed, read_conditions, unmeasured_problems
from mat_ds.evaluation.gate.verdict import Gate, gate_rows, gate_sentence
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.request import find_subject
from mat_ds.evaluation.table import (
    calibration_rows,
    invariance_rows,
    masking_lines,
    masking_rows,
    smoothing_rows,
    table_of,
    text_attack_rows,
)
from mat_ds.ranks.exits import as_rank, attempt, compute_deterministically
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.registry.locate import MEANING
from mat_ds.runs.plugins import load_plugins
from mat_ds.tasks.kinds import kind_of
from mat_ds.terminal.display import Display, add_display_arguments
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing, run_process

EXAMPLE = "mat-ds evaluate runs/cola attack.radii=[1e-4,1e-3,1e-2] noise.rates=[0.05,0.1] limit=500"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command on this rank and returns its exit code."""
    return as_rank(lambda world: _evaluate(arguments, world))


def _evaluate(arguments: Sequence[str], world: World) -> ExitCode:
    parsed, options = parse(arguments)
    load_plugins(parsed.plugin)
    found = find_subject(parsed.model, options)
    raise_if_any(unmeasured_problems(parsed.require, kind_of(found.spec), options, found.test_names))
    gate = Gate(parsed.require) if parsed.require else None
    share_processors(world.local_size)
    with importing(world.rank == 0 and not parsed.quiet):  # only now, as it takes seconds
        from mat_ds.engine.group import process_group
        from mat_ds.evaluation.robustness import evaluate_subject
        from mat_ds.evaluation.subject import load_subject

    subject = load_subject(found, options)
    # Kernels that sum in varying order could flip predictions that are close to a decision boundary.
    compute_deterministically(warn_only=True)
    shown = Display(world.rank == 0, parsed.quiet, parsed.json)
    with process_group(world) as device:
        advice = "The model overflows: try dtype=float32."

        def work() -> ExitCode:
            report = evaluate_subject(subject, options, world, device, shown, gate)
            rows = (table_of, masking_rows, text_attack_rows, invariance_rows, smoothing_rows, calibration_rows)
            tables = [table_text(table) for table in (of(report) for of in rows) if table]
            if checked := masking_lines(report):
                tables.append("\n".join(checked))
            verdict = report.get("gate")
            if verdict:
                tables.append(f"{table_text(gate_rows(verdict))}\n{gate_sentence(verdict)}")
            text = "\n\n".join(tables) + f"\nreport: {report['folder']}"
            shown.conclude(json.dumps(report) if shown.json else text)
            return ExitCode.OK if verdict is None or verdict["met"] else ExitCode.UNMET

        return attempt(work, world, advice)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, EvaluationOptions]:
    """Parses the command line and its options, to which is added what conditions need measured; raises `UserError` if they are
    invalid."""
    parser = Parser("evaluate", __doc__, EXAMPLE)
    parser.add_argument("model", metavar="MODEL", type=argument, help=f"{MEANING}; one that mat_ds did not train needs task=")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options, as in the example")
    parser.add_argument("--require", action="append", default=[], type=argument, metavar="CONDITIONS", help=REQUIRED)
    add_plugin_argument(parser)
    add_display_arguments(parser)
    parsed = parser.parse_intermixed_args(arguments)
    problems: list[Problem] = []
    options = collect_problems(problems, read_options, EvaluationOptions, parsed.overrides)
    parsed.require = collect_problems(problems, read_conditions, parsed.require) or []
    raise_if_any([*problems, *alone_problems(parsed.require)])
    assert options is not None
    return parsed, completed(options, parsed.require)


if __name__ == "__main__":
    run_process(main)
