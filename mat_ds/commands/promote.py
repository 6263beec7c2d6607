"""`mat-ds promote`: points an alias such as champion to a version, unless the alias's current version scores higher.

Scores are only compared on the same dev set (by SHA-256); otherwise the alias is not changed. With --require the version is
measured first, and the one it would replace on the same examples: the exit code is 4 if it does not meet the conditions.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mat_ds.config.paths import argument
from mat_ds.config.validation import read_options
from mat_ds.errors import ExitCode, Problem, UserError, collect_problems, raise_if_any
from mat_ds.evaluation.gate.conditions import MEANING as REQUIRED
from mat_ds.evaluation.gate.conditions import Condition, completed, read_conditions
from mat_ds.evaluation.gate.verdict import gate_rows, gate_sentence
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.ranks.exits import as_rank, attempt, compute_deterministically
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.registry.locate import URI_MEANING
from mat_ds.runs.plugins import load_plugins
from mat_ds.terminal.display import Display, show
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing

EXAMPLE = 'mat-ds promote acceptability 3 --alias champion --require "clean >= 0.8, flip_rate(characters) <= 0.1"'


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return as_rank(lambda world: attempt(lambda: _promote(arguments, world), world, "The model overflows: try dtype=float32."))


def _promote(arguments: Sequence[str], world: World) -> ExitCode:
    parsed, options, conditions = _parse(arguments)
    if world.size > 1:
        raise UserError(Problem("ranks", world.size, "a version is promoted by one process", "start it without a launcher"))
    load_plugins(parsed.plugin)
    with importing(what="MLflow"):
        from mat_ds.registry.versions import promote

    if conditions and not _gate(parsed, options, conditions, world):
        return ExitCode.UNMET
    show(promote(parsed.name, parsed.version, parsed.alias, parsed.force, parsed.uri))
    return ExitCode.OK


def _gate(parsed: argparse.Namespace, options: EvaluationOptions, conditions: list[Condition], world: World) -> bool:
    """Whether the version meets the conditions; stores with it what was found."""
    from mat_ds.registry.connection import registry_uri
    from mat_ds.registry.verdicts import keep_verdict
    from mat_ds.registry.versions import promotable

    candidate, champion = promotable(parsed.name, parsed.version, parsed.alias, parsed.force, registry_uri(parsed.uri))
    share_processors(world.local_size)
    with importing():  # only now, as it takes seconds
        from mat_ds.engine.group import process_group
        from mat_ds.evaluation.gate.promotion import VersionGate

    display = Display(world.rank == 0)
    with TemporaryDirectory() as scratch:
        gate = VersionGate(conditions, options, parsed.uri, Path(scratch))
        subject, own = gate.load(candidate)
        compute_deterministically(warn_only=True)
        with process_group(world) as device:
            numbers = None
            if champion and champion != candidate and not parsed.force:
                numbers = gate.champions_numbers(champion, subject, world, device, display)
            report = gate.measure(subject, own, numbers, world, device, display)
        keep_verdict(candidate, gate.tags(report), Path(report["folder"]) / "robustness.json", parsed.uri)
    show(f"{table_text(gate_rows(report['gate']))}\n{gate_sentence(report['gate'])}")
    met = bool(report["gate"]["met"])
    if not met:
        pointing = f"{parsed.alias} is version {champion.version}, as before" if champion else f"there is no {parsed.alias}"
        show(f"{parsed.name} version {parsed.version} is not promoted: {pointing}")
    return met


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, EvaluationOptions, list[Condition]]:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("promote", __doc__, EXAMPLE)
    parser.add_argument("name", metavar="NAME", help="name of the registered model")
    parser.add_argument("version", metavar="VERSION", type=int, help="the version to promote")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="with --require: options of `mat-ds evaluate`, such as data.path=<folder>",
    )
    parser.add_argument("--alias", required=True, help="the alias that will point to the version")
    parser.add_argument(
        "--force", action="store_true", help="promote whatever the alias's current version is; conditions hold all the same"
    )
    parser.add_argument("--require", action="append", default=[], type=argument, metavar="CONDITIONS", help=REQUIRED)
    parser.add_argument("--uri", help=URI_MEANING)
    add_plugin_argument(parser)
    parsed = parser.parse_intermixed_args(arguments)
    problems: list[Problem] = []
    conditions = collect_problems(problems, read_conditions, parsed.require) or []
    options = collect_problems(problems, read_options, EvaluationOptions, parsed.overrides)
    if parsed.overrides and not parsed.require:
        reason = "are options of an evaluation, which there is none without conditions"
        problems.append(Problem("command line", " ".join(parsed.overrides), reason, "pass --require, or leave them out"))
    elif options and options.output_dir:
        fix = "leave it out; `mat-ds evaluate` writes a report where you like"
        problems.append(Problem("output_dir", options.output_dir, "the report is kept with the version", fix))
    raise_if_any(problems)
    assert options is not None
    return parsed, completed(options, conditions), conditions
