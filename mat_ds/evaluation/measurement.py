"""Measures a model on the splits of its task: clean, under attack, and on noisy texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mat_ds.evaluation.attacks.base import Victim
from mat_ds.evaluation.attacks.embedding_measured import EmbeddingAttack, Perturbable, at_radius, reach_of
from mat_ds.evaluation.attacks.measured import measure_text_attack
from mat_ds.evaluation.groups import rows_by_group
from mat_ds.evaluation.invariance.measured import measure_invariance
from mat_ds.evaluation.noise import noised
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.scores import Evaluator, Outcome
from mat_ds.evaluation.shift import shifted_quality
from mat_ds.evaluation.smoothed import certify_split
from mat_ds.evaluation.subject import Subject
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.tasks.example import Example, whole_examples
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.spec import TaskSpec

Point = dict[str, float | int]


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
        self._temperature, self._suite = subject.temperature, subject.invariance
        self._masked = subject.masked
        self._perturbation = EmbeddingPerturbation(subject.model)
        self._surrogate = None if subject.surrogate is None else self._perturbable(subject.surrogate)
        # A line for each attacked example, by the name of the file beside the report.
        self.lines: dict[str, list[dict[str, Any]]] = {}
        # Calibration under noise and attack: split -> `noise` or `text_attacks` -> kind or name -> points or quantities.
        self.shift: dict[str, dict[str, dict[str, Any]]] = {}

    def clean(self, split: str) -> dict[str, Any]:
        """`clean`, the scores without perturbation, `groups`, those of each group if there are some, and `calibration` if the
        kind of the task has probabilities."""
        examples = self._splits[split]
        found = self._evaluator.predict(self._forward, examples, split)

        def parts() -> dict[str, Any]:
            return {**grouped_scores(self._spec, found, examples), **self._calibration(found, split)}

        return {"clean": self._scores(found, examples), **on_rank_zero(parts)}

    def _calibration(self, found: Outcome, split: str) -> dict[str, Any]:
        if not self._kind.calibrates:
            return {}
        from mat_ds.evaluation.calibration import measured_at

        return {"calibration": measured_at(self._kind, found.kept.numpy(), self._splits[split], self._temperature)}

    def attacked(self, split: str) -> dict[str, Any]:
        """`attack`: scores at each radius, starting with 0; `broken`: number of examples that only the attack made wrong. And
        `masking`, what the checks found, if they are asked for."""
        options, examples = self._options.attack, self._splits[split]
        attack = EmbeddingAttack(
            options, self._options.seed, self._itself, self._surrogate, self._evaluator, self._kind,
            reach_of(self._model, options, self._length),
        )  # fmt: skip
        worst = attack.curve(examples, split)
        points = []
        for i, radius in enumerate(options.curve):
            here = at_radius(worst, i)
            points.append({"radius": radius, **self._scores(here, examples)})
            if worst.right is not None and here.right is not None:
                points[-1]["broken"] = int((worst.right[:, 0] & ~here.right).sum())
        return {"attack": points, **({"masking": attack.checks(worst, examples, split)} if options.checks else {})}

    def noisy(self, split: str, kind: str, rate: float) -> Point:
        """Scores on noisy texts; `changed`: number of examples whose text changed."""
        examples, count = whole_examples(self._splits[split]), self._kind.noised_texts
        found = [
            noised(example, kind, rate, (self._options.seed, "noise", split, i), count) for i, example in enumerate(examples)
        ]
        changed = sum(one != other for one, other in zip(found, examples, strict=True))
        parts = self._kind.parts(self._tokenizer, found, self._length)
        answers = self._evaluator.predict(self._forward, parts, f"{split}, {kind} {rate:g}")
        if quality := shifted_quality(self._kind, answers, parts):
            self._shift_of(split, "noise").setdefault(kind, []).append({"rate": rate, **quality})
        return {"rate": rate, **self._scores(answers, parts), "changed": changed}

    def text_attacked(self, split: str, name: str) -> dict[str, Any]:
        """What a text attack does to a split."""
        options, evaluator = self._options, self._evaluator
        collate = Collator(self._tokenizer, self._length, self._kind)
        victim = Victim(
            self._model, self._forward, self._perturbation, self._tokenizer, collate, self._kind, evaluator.device,
            options.micro_batch_size, self._masked,
        )  # fmt: skip
        found, lines = measure_text_attack(
            name, options.text_attack, victim, evaluator, self._splits[split], split, options.seed
        )
        self.lines[f"{split}.{name}.jsonl"] = lines
        if self._kind.calibrates:
            examples = [replace(self._splits[split][one["row"]], texts=tuple(one["changed"]), tokens=None) for one in lines]
            answers = evaluator.predict(self._forward, examples, f"{split}, {name}, changed texts")
            self._shift_of(split, "text_attacks")[name] = shifted_quality(self._kind, answers, examples)
        return found

    def _shift_of(self, split: str, what: str) -> dict[str, Any]:
        return self.shift.setdefault(split, {}).setdefault(what, {})

    def invariance(self) -> dict[str, Any]:
        """`invariance`, what came of the tests of the model's behaviour; empty if there are none."""
        if self._suite is None:
            return {}
        return {"invariance": measure_invariance(self._suite, self._kind, self._evaluator, self._forward)}

    def certified(self, split: str) -> dict[str, Any]:
        """The certificate in embedding space of a split."""
        options = self._options
        collate = Collator(self._tokenizer, self._length, self._kind)
        found, lines = certify_split(
            options.smoothing, self._itself, collate, self._evaluator, self._splits[split], split, options.seed,
            options.micro_batch_size,
        )  # fmt: skip
        self.lines[f"{split}.smoothing.jsonl"] = lines
        return found

    @property
    def _itself(self) -> Perturbable:
        return Perturbable(self._forward, self._perturbation)

    def _perturbable(self, model: Any) -> Perturbable:
        return Perturbable(lambda inputs: self._kind.read(model(**inputs), inputs), EmbeddingPerturbation(model))

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._kind.read(self._model(**inputs), inputs)

    def _scores(self, found: Outcome, examples: Sequence[Example]) -> Point:
        return on_rank_zero(lambda: scores(self._spec, found, examples))


def scores(spec: TaskSpec, found: Outcome, examples: Sequence[Example]) -> Point:
    """The task's metrics, the share of right answers if they are right or wrong, and the mean loss."""
    from mat_ds.tasks.metrics import score

    right = {} if found.right is None else {kind_of(spec).right_name: float(found.right.double().mean())}
    loss = float(found.losses.double().mean())
    return {**score(spec, found.kept.numpy(), examples), **right, kind_of(spec).loss_name: loss}


def grouped_scores(spec: TaskSpec, found: Outcome, examples: Sequence[Example]) -> dict[str, dict[str, Point]]:
    """`groups`: the scores of each group and how many `examples` it has; empty if there are no groups."""
    points: dict[str, Point] = {}
    for name, rows in rows_by_group(examples).items():
        here = Outcome(*(None if part is None else part[rows] for part in found))  # type: ignore[arg-type]
        points[name] = {**scores(spec, here, [examples[row] for row in rows]), "examples": len(rows)}
    return {"groups": points} if points else {}


def measure_split(measurement: Measurement, options: EvaluationOptions, split: str) -> dict[str, Any]:
    """All requested measurements on one split."""
    found: dict[str, Any] = {**measurement.clean(split), "attack": [], "noise": {}}
    if options.attack.curve:
        found |= measurement.attacked(split)
    for kind in options.noise.kinds if options.noise.rates else ():
        found["noise"][kind] = [measurement.noisy(split, kind, rate) for rate in options.noise.rates]
    if options.text_attack.names:
        found["text_attacks"] = {name: measurement.text_attacked(split, name) for name in options.text_attack.names}
    if split in measurement.shift:
        found["shift"] = measurement.shift[split]
    if options.smoothing.sigma is not None:
        found["smoothing"] = measurement.certified(split)
    return found
