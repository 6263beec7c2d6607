"""Evaluates a model: every measurement asked for, written as a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from mat_ds.config.versions import version_of
from mat_ds.evaluation.attacks.embedding_measured import attack_work
from mat_ds.evaluation.attacks.masking import RULES
from mat_ds.evaluation.gate.verdict import Gate
from mat_ds.evaluation.invariance.measured import NAME as INVARIANCE
from mat_ds.evaluation.measurement import Measurement, measure_split
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.scores import Evaluator
from mat_ds.evaluation.subject import Subject
from mat_ds.ranks.collectives import on_rank_zero, same_on_all_ranks
from mat_ds.ranks.world import World
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.folders import write_folder
from mat_ds.storage.rundir import new_folder
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.ranking import undefined
from mat_ds.tasks.rows import skipped_lines
from mat_ds.terminal.display import Display

PACKAGES = ("mat_ds", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy")


def work_of(subject: Subject, options: EvaluationOptions) -> dict[str, int]:
    """The cost of each measurement by its name, where a forward pass of one example is 1 and a step of an attack 3."""
    work: dict[str, int] = {INVARIANCE: len(subject.invariance.examples)} if subject.invariance else {}
    for split, examples in subject.splits.items():
        work[split] = len(examples)
        work |= attack_work(options.attack, len(examples), split)
        kinds = product(options.noise.kinds, options.noise.rates)
        work |= {f"{split}, {kind} {rate:g}": len(examples) for kind, rate in kinds}
        attacked = min(len(examples), options.text_attack.limit)
        work |= {f"{split}, {name}": attacked * options.text_attack.max_queries for name in options.text_attack.names}
        work |= {f"{split}, {name}, changed texts": attacked for name in options.text_attack.names}
        votes = options.smoothing.select + options.smoothing.samples if options.smoothing.sigma else 0
        work[f"{split}, smoothing"] = min(len(examples), options.smoothing.limit) * votes
    return work


def evaluate_subject(
    subject: Subject, options: EvaluationOptions, world: World, device: torch.device, display: Display, gate: Gate | None = None
) -> dict[str, Any]:
    """Measures on all ranks and writes the report; returns it, with its folder as `folder`.

    Args:
        display: shows the progress.
        gate: what the model must reach; its verdict is `gate` of the report.
    """
    tests = subject.invariance.sha256 if subject.invariance else ""
    inputs = (subject.model_sha256, subject.data_sha256, tests, options.model_dump_json())
    same_on_all_ranks(hashlib.sha256(repr(inputs).encode()).hexdigest(), "model, data or options")
    subject.model.to(device)
    if subject.surrogate is not None:
        subject.surrogate.to(device)
    collate = Collator(subject.tokenizer, subject.max_length, kind_of(subject.spec))
    display.say(*(f"skipped {line}" for line in skipped_lines(subject.tallies)))
    without = {split: missing for split, examples in subject.splits.items() if (missing := undefined(subject.spec, examples))}
    for split, missing in without.items():
        display.warn("; ".join(f"{name} is undefined on {split}: {reason}" for name, reason in missing.items()))
    work = work_of(subject, options)
    with display.part("evaluation", sum(work.values()), delay=0.0) as bar:

        def follow(name: str, passes: Sequence[list[int]]) -> Iterator[list[int]]:
            bar.rename(name)
            for rows in passes:
                yield rows
                bar.update(work[name] / len(passes))

        evaluator = Evaluator(subject.spec, collate, options.micro_batch_size, world, device, follow=follow)
        measurement = Measurement(subject, options, evaluator)
        splits = {split: measure_split(measurement, options, split) for split in subject.splits}
        tested = measurement.invariance()

    found = robustness_report(subject, options, splits, without) | tested
    if gate:
        found["gate"] = gate.verdict(subject.spec, found)

    def write() -> Path:
        folder = new_folder(subject.folder / "evaluation") if options.output_dir is None else Path(options.output_dir)

        def write_all(aside: Path) -> None:
            write_json(aside / "robustness.json", found)
            for name, lines in measurement.lines.items():
                write_text(aside / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

        write_folder(folder, write_all)
        return folder

    folder = on_rank_zero(write)
    return found | {"folder": str(folder)}


def robustness_report(
    subject: Subject, options: EvaluationOptions, splits: dict[str, Any], without: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """The report, given all measurements and the metrics that a split has not, with the reason; independent of the number of
    ranks and the time."""
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
        "attack": {"norm": attack.norm, "radii": list(attack.curve), "steps": attack.steps, "step_size": attack.first_step,
                   "rules": attack.rules},
        **({"masking_rules": RULES} if attack.checks else {}),
        "noise": {"kinds": options.noise.kinds, "rates": options.noise.rates},
        "splits": splits,
        **({"undefined": without} if without else {}),
        "options": options.model_dump(mode="json"),
        "versions": {name: version_of(name) for name in PACKAGES},
    }  # fmt: skip
