"""Computes clean scores, scores under attack and scores under noise, and writes them as a report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mat_ds.config.versions import version_of
from mat_ds.evaluation.attack import robustness_curve, start
from mat_ds.evaluation.noise import noised
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.scores import Evaluator, Outcome
from mat_ds.evaluation.subject import Subject
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.collectives import on_rank_zero, same_on_all_ranks
from mat_ds.ranks.world import World
from mat_ds.sampling.keys import Part
from mat_ds.storage.disk import write_json
from mat_ds.storage.folders import write_folder
from mat_ds.storage.rundir import new_folder
from mat_ds.tasks.example import Example, whole_examples
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.ranking import undefined
from mat_ds.tasks.rows import skipped_lines
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.display import Display

Point = dict[str, float | int]
PACKAGES = ("mat_ds", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy")

ATTACK_RULES = (
    "untargeted ascent on the task's loss with respect to a perturbation added to the word embeddings, evaluation mode",
    "the ball is per example, over all its real tokens together, special tokens included; pads carry nothing",
    "one random start per example, keyed by (seed, split, position), scaled to each radius",
    "the worst of all iterates counts: a wrong answer before a right one, then the greater loss",
    "what was found at a smaller radius counts at every larger one: accuracy cannot rise with the radius by construction",
)


class Measurement:
    """Measures a model on the splits of its task. Every rank must call each method with the same arguments.

    Args:
        subject: the model, on the evaluator's device, and its data.
        options: attack, noise, seed.
        evaluator: distributes examples over ranks and gathers results.
    """

    def __init__(self, subject: Subject, options: EvaluationOptions, evaluator: Evaluator):
        self._model, self._spec, self._splits = subject.model, subject.spec, subject.splits
        self._options, self._evaluator, self._kind = options, evaluator, kind_of(subject.spec)
        self._tokenizer, self._length = subject.tokenizer, subject.max_length
        self._temperature = subject.temperature
        self._perturbation = EmbeddingPerturbation(subject.model)

    def clean(self, split: str) -> dict[str, Any]:
        """`clean`, the scores without perturbation, and `calibration` if the kind of the task has probabilities."""
        found = self._evaluator.predict(self._forward, self._splits[split], split)
        return {"clean": self._scores(found, self._splits[split]), **on_rank_zero(lambda: self._calibration(found, split))}

    def _calibration(self, found: Outcome, split: str) -> dict[str, Any]:
        if not self._kind.calibrates:
            return {}
        from mat_ds.evaluation.calibration import measured_at

        return {"calibration": measured_at(self._kind, found.kept.numpy(), self._splits[split], self._temperature)}

    def attacked(self, split: str) -> list[Point]:
        """Scores at each radius, starting with 0; `broken`: number of examples that only the attack made wrong."""
        options, radii = self._options.attack, self._options.attack.curve

        def attack(batch: MicroBatch, rows: list[int]) -> Outcome:
            keys = _keys((self._options.seed, "attack", split), rows, batch.texts // len(rows))
            begin = start(keys, batch.mask, self._perturbation.width, options.norm)

            def perturbed(delta: Tensor | None) -> Tensor:
                with self._perturbation.applied(delta):
                    return self._forward(batch.inputs)

            return robustness_curve(perturbed, batch, begin, radii, options.norm, options.steps, options.step_size, self._kind)

        worst = self._evaluator.each(attack, self._splits[split], f"{split}, attack")  # each part (N, E, ...)
        points = []
        for i, radius in enumerate(radii):
            here = Outcome(*(None if part is None else part[:, i] for part in worst))  # type: ignore[arg-type]
            points.append({"radius": radius, **self._scores(here, self._splits[split])})
            if worst.right is not None and here.right is not None:
                points[-1]["broken"] = int((worst.right[:, 0] & ~here.right).sum())
        return points

    def noisy(self, split: str, kind: str, rate: float) -> Point:
        """Scores on noisy texts; `changed`: number of examples whose text changed."""
        examples, count = whole_examples(self._splits[split]), self._kind.noised_texts
        found = [
            noised(example, kind, rate, (self._options.seed, "noise", split, i), count) for i, example in enumerate(examples)
        ]
        changed = sum(one != other for one, other in zip(found, examples, strict=True))
        parts = self._kind.parts(self._tokenizer, found, self._length)
        answers = self._evaluator.predict(self._forward, parts, f"{split}, {kind} {rate:g}")
        return {"rate": rate, **self._scores(answers, parts), "changed": changed}

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._kind.read(self._model(**inputs), inputs)

    def _scores(self, found: Outcome, examples: Sequence[Example]) -> Point:
        return on_rank_zero(lambda: scores(self._spec, found, examples))


def _keys(first: tuple[Part, ...], rows: Sequence[int], texts: int) -> list[tuple[Part, ...]]:
    """The key of the random start of each text of a batch.

    Args:
        first: what all keys begin with.
        rows: positions of the examples.
        texts: how many each example has; one has no number of its own.
    """
    return [(*first, row, *([text] if texts > 1 else [])) for row in rows for text in range(texts)]


def scores(spec: TaskSpec, found: Outcome, examples: Sequence[Example]) -> Point:
    """The task's metrics, the share of right answers if they are right or wrong, and the mean loss."""
    from mat_ds.tasks.metrics import score

    right = {} if found.right is None else {kind_of(spec).right_name: float(found.right.double().mean())}
    loss = float(found.losses.double().mean())
    return {**score(spec, found.kept.numpy(), examples), **right, kind_of(spec).loss_name: loss}


def measure_split(measurement: Measurement, options: EvaluationOptions, split: str) -> dict[str, Any]:
    """All requested measurements on one split."""
    found: dict[str, Any] = {**measurement.clean(split), "attack": [], "noise": {}}
    if options.attack.curve:
        found["attack"] = measurement.attacked(split)
    for kind in options.noise.kinds if options.noise.rates else ():
        found["noise"][kind] = [measurement.noisy(split, kind, rate) for rate in options.noise.rates]
    return found


def work_of(subject: Subject, options: EvaluationOptions) -> dict[str, int]:
    """The cost of each measurement by its name, where a forward pass of one example is 1 and a step of an attack 3."""
    steps = 1 + (len(options.attack.curve) - 1) * (3 * options.attack.steps + 1)
    work: dict[str, int] = {}
    for split, examples in subject.splits.items():
        work[split] = len(examples)
        work[f"{split}, attack"] = steps * len(examples) if options.attack.curve else 0
        kinds = product(options.noise.kinds, options.noise.rates)
        work |= {f"{split}, {kind} {rate:g}": len(examples) for kind, rate in kinds}
    return work


def evaluate_subject(
    subject: Subject, options: EvaluationOptions, world: World, device: torch.device, display: Display
) -> dict[str, Any]:
    """Measures on all ranks and writes the report; returns it, with its folder as `folder`.

    Args:
        display: shows the progress.
    """
    inputs = (subject.model_sha256, subject.data_sha256, options.model_dump_json())
    same_on_all_ranks(hashlib.sha256(repr(inputs).encode()).hexdigest(), "model, data or options")
    subject.model.to(device)
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

    found = robustness_report(subject, options, splits, without)

    def write() -> Path:
        folder = new_folder(subject.folder / "evaluation") if options.output_dir is None else Path(options.output_dir)
        write_folder(folder, lambda aside: write_json(aside / "robustness.json", found))
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
        "attack": {"norm": attack.norm, "radii": list(attack.curve), "steps": attack.steps, "step_size": attack.step_size,
                   "rules": ATTACK_RULES},
        "noise": {"kinds": options.noise.kinds, "rates": options.noise.rates},
        "splits": splits,
        **({"undefined": without} if without else {}),
        "options": options.model_dump(mode="json"),
        "versions": {name: version_of(name) for name in PACKAGES},
    }  # fmt: skip
