"""`mat-ds evaluate`: scores, robustness to embedding attacks and robustness to noise of a model."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mat_ds.config.paths import argument
from mat_ds.config.validation import read_options
from mat_ds.engine.group import process_group
from mat_ds.errors import ExitCode, UserError
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.report import robustness_report, write_report
from mat_ds.evaluation.robustness import Measurement, measure_split
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.subject import Subject, load_subject
from mat_ds.ranks.collectives import on_rank_zero, same_on_all_ranks
from mat_ds.ranks.exits import attempt, compute_deterministically, configure_process, report_problems
from mat_ds.ranks.world import World
from mat_ds.registry.locate import MEANING
from mat_ds.storage.folders import write_folder
from mat_ds.storage.rundir import new_folder
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.rows import skipped_lines
from mat_ds.terminal.display import Display, add_display_arguments
from mat_ds.terminal.parser import Parser

EXAMPLE = "mat-ds evaluate runs/cola attack.radii=[1e-4,1e-3,1e-2] noise.rates=[0.05,0.1] limit=500"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line on this rank and returns its exit code."""
    try:
        world = World.from_environment()
    except UserError as error:
        return report_problems(error, World())
    configure_process(world)
    try:
        parsed, options = parse(arguments)
        subject = load_subject(parsed.model, options)
    except UserError as error:
        return report_problems(error, world)
    # Kernels whose sums change their order would let a prediction at the edge fall to either side.
    compute_deterministically(warn_only=True)
    shown = Display(world.rank == 0, parsed.quiet, parsed.json)
    with process_group(world) as device:
        advice = "The model overflows: try dtype=float32."
        return attempt(lambda: evaluate(subject, options, world, device, shown), world, advice)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, EvaluationOptions]:
    """A command line, and the options in it; raises `UserError` where it is not one."""
    parser = Parser(prog="mat-ds evaluate", description=__doc__, epilog=f"example: {EXAMPLE}", allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", type=argument, help=f"{MEANING}; one that mat_ds has not trained needs task=")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options (mat_ds/evaluation/options.py)")
    add_display_arguments(parser)
    parsed = parser.parse_intermixed_args(arguments)
    return parsed, read_options(EvaluationOptions, parsed.overrides)


def evaluate(subject: Subject, options: EvaluationOptions, world: World, device: torch.device, shown: Display) -> Path:
    """Measures and writes the report on all ranks; returns the folder it is in."""
    inputs = (subject.model_sha256, subject.data_sha256, options.model_dump_json())
    same_on_all_ranks(hashlib.sha256(repr(inputs).encode()).hexdigest(), "model, data or options")
    subject.model.to(device)
    collate = Collator(subject.tokenizer, subject.max_length, kind_of(subject.spec))
    evaluator = Evaluator(subject.spec, collate, options.micro_batch_size, world, device)
    measurement = Measurement(subject, options, evaluator)

    for line in skipped_lines(subject.tallies):
        shown.say(f"skipped {line}")
    splits = {split: measure_split(measurement, options, split, shown.say) for split in subject.splits}

    found = robustness_report(subject, options, splits)

    def write() -> Path:
        folder = new_folder(subject.folder / "evaluation") if options.output_dir is None else Path(options.output_dir)
        write_folder(folder, lambda aside: write_report(aside, found, subject))
        return folder

    folder = on_rank_zero(write)
    shown.conclude(json.dumps(found | {"folder": str(folder)}) if shown.json else f"report: {folder}")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
