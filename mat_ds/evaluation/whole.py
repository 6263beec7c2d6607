"""Runs a complete evaluation and writes its report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.report import robustness_report, write_report
from mat_ds.evaluation.robustness import Measurement, measure_split
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.subject import Subject
from mat_ds.ranks.collectives import on_rank_zero, same_on_all_ranks
from mat_ds.ranks.world import World
from mat_ds.storage.folders import write_folder
from mat_ds.storage.rundir import new_folder
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.rows import skipped_lines


def evaluate_subject(
    subject: Subject, options: EvaluationOptions, world: World, device: torch.device, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measures on all ranks and writes the report; returns it, with its folder as `folder`.

    Args:
        say: called with a line per result.
    """
    inputs = (subject.model_sha256, subject.data_sha256, options.model_dump_json())
    same_on_all_ranks(hashlib.sha256(repr(inputs).encode()).hexdigest(), "model, data or options")
    subject.model.to(device)
    collate = Collator(subject.tokenizer, subject.max_length, kind_of(subject.spec))
    evaluator = Evaluator(subject.spec, collate, options.micro_batch_size, world, device)
    measurement = Measurement(subject, options, evaluator)

    for line in skipped_lines(subject.tallies):
        say(f"skipped {line}")
    splits = {split: measure_split(measurement, options, split, say) for split in subject.splits}

    found = robustness_report(subject, options, splits)

    def write() -> Path:
        folder = new_folder(subject.folder / "evaluation") if options.output_dir is None else Path(options.output_dir)
        write_folder(folder, lambda aside: write_report(aside, found, subject))
        return folder

    folder = on_rank_zero(write)
    return found | {"folder": str(folder)}
