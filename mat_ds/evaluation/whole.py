"""Runs a complete evaluation and writes its report."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mat_ds.config.versions import version_of
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.robustness import Measurement, measure_split
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.subject import Subject
from mat_ds.ranks.collectives import on_rank_zero, same_on_all_ranks
from mat_ds.ranks.world import World
from mat_ds.storage.disk import write_json
from mat_ds.storage.folders import write_folder
from mat_ds.storage.rundir import new_folder
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.rows import skipped_lines

PACKAGES = ("mat_ds", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy")

ATTACK_RULES = (
    "untargeted ascent on the task's loss with respect to a perturbation added to the word embeddings, evaluation mode",
    "the ball is per example, over all its real tokens together, special tokens included; pads carry nothing",
    "one random start per example, keyed by (seed, split, position), scaled to each radius",
    "the worst of all iterates counts: a wrong answer before a right one, then the greater loss",
    "what was found at a smaller radius counts at every larger one: accuracy cannot rise with the radius by construction",
)


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
        write_folder(folder, lambda aside: write_json(aside / "robustness.json", found))
        return folder

    folder = on_rank_zero(write)
    return found | {"folder": str(folder)}


def robustness_report(subject: Subject, options: EvaluationOptions, splits: dict[str, Any]) -> dict[str, Any]:
    """The report; independent of the number of ranks and the time."""
    attack = options.attack
    return {
        "task": subject.spec.name,
        "model": {"folder": str(subject.folder), "sha256": subject.model_sha256, "dtype": options.dtype},
        "data": {
            "sha256": subject.data_sha256, "max_length": subject.max_length,
            "examples": {split: len(examples) for split, examples in subject.splits.items()},
            "skipped": {split: tally.skipped for split, tally in subject.tallies.items() if tally.skipped},
        },
        "seed": options.seed,
        "attack": {"norm": attack.norm, "radii": list(attack.curve), "steps": attack.steps, "step_size": attack.step_size,
                   "rules": ATTACK_RULES},
        "noise": {"kinds": options.noise.kinds, "rates": options.noise.rates},
        "splits": splits,
        "options": options.model_dump(mode="json"),
        "versions": {name: version_of(name) for name in PACKAGES},
    }  # fmt: skip
