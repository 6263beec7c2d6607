"""Multi-label classification: each text or pair has any number of several labels, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem
from mat_ds.tasks.example import Example, Label
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.labels import class_names, class_of, known_labels
from mat_ds.tasks.lists import FORM, list_of
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch
    from mat_ds.tasks.kinds.forms import LossForm


class MultiLabel(Kind):
    """Each label is a decision of its own, sigmoid(z_c). A label of an example is the tuple of its classes, in order.

    Loss and divergence are means over the C labels, as the loss is in transformers (`problem_type`).
    """

    name = "multi_label"
    problem_type = "multi_label_classification"
    metrics = (
        "f1_micro", "f1_macro", "f1_weighted", "precision_macro", "recall_macro", "accuracy", "exact_match", "auroc",
        "average_precision",
    )  # fmt: skip
    usual_metrics = ("f1_micro", "f1_macro")
    label_dtype = "float32"
    stored_type = "list<int64>"
    server = "multi_label"
    distributions = calibrates = text_attacks = True
    loss_options = ("class_weights", "label_smoothing", "focal_gamma")
    weighs_samples = False
    directions = 2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.spec.labels:
            yield Problem("labels", None, f"are missing: a {self.name} task needs them", "list them")
        if self.spec.range:
            yield Problem("range", self.spec.range, "is for regression, but the task has labels", "delete the range")

    @classmethod
    def fits(cls, config: Any) -> bool:
        return bool(config.num_labels > 1 and config.problem_type == cls.problem_type)

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
        return TaskSpec(name="model", kind="multi_label", text=text, labels=labels, metrics=("f1_micro", "f1_macro"))

    @property
    def list_columns(self) -> tuple[str, ...]:
        return (self.spec.label,)

    def label(self, value: Any) -> Label:
        if (names := list_of(value)) is None:
            raise ValueError(f"the labels are not {FORM}")
        found = [class_of(self.spec, name) for name in names]
        if None in found:
            raise ValueError(f"label {found.index(None) + 1} of {len(found)} is none of {known_labels(self.spec)}")
        if len(set(found)) < len(found):
            raise ValueError("a label is named twice")
        return tuple(sorted(number for number in found if number is not None))

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        return class_names(self.spec, names, where)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0, self.outputs - 1

    def targets(self, labels: Sequence[Label | None]) -> Tensor:
        """1 for each class of a label and 0 for the others, (B, C); an unknown label has none."""
        import torch

        found = torch.zeros(len(labels), self.outputs)
        for row, label in enumerate(labels):
            found[row, list(label or ())] = 1.0  # type: ignore[arg-type]
        return found

    @property
    def outputs(self) -> int:
        return len(self.spec.labels)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.spec.labels

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Binary cross-entropy, its mean over the labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        return binary_cross_entropy_with_logits(logits.float(), batch.labels.float(), reduction="none").mean(-1)

    def trained_losses(self, logits: Tensor, batch: MicroBatch, form: LossForm) -> Tensor:
        """Each label has two outcomes, so that smoothing takes y to (1 - epsilon) y + epsilon / 2. Its weight is that of the
        outcome that it applies, against 1."""
        from torch import stack

        z, y = logits.float(), batch.labels.float()
        outcomes, targets = stack([z.new_zeros(z.shape), z], -1), stack([1 - y, y], -1)  # (B, C, 2): without the label, with it
        without, applies = form.terms(outcomes, targets).unbind(-1)
        return (without + form.weights_on(z) * applies).mean(-1)

    def class_shares(self, example: Example) -> Mapping[int, float]:
        return {int(number): 1.0 for number in example.label}  # type: ignore[union-attr, arg-type]

    def balanced(self, count: float, examples: int) -> float:
        """Rows without the label over rows with it."""
        return (examples - count) / count

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Symmetrised KL divergence of the two Bernoulli distributions of a label, KL(p || q) + KL(q || p), its mean over the
        labels: sKL = (p - q)(logit p - logit q)."""
        p, q = p_logits.float(), q_logits.float()
        return ((p.sigmoid() - q.sigmoid()) * (p - q)).mean(-1)

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Whether the set of labels is the right one."""
        return ((logits > 0) == (batch.labels > 0.5)).all(-1)

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        """Whether each label applies, (N, C)."""
        from scipy.special import expit

        references = self.targets([example.label for example in examples]).int().numpy()
        return Answered(references, (kept > 0).astype("int64"), expit(kept))

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The labels with a probability above 0.5, and the probability of each label."""
        from scipy.special import expit

        names = self.spec.labels
        return [
            {
                "labels": [name for name, z in zip(names, row, strict=True) if z > 0],
                "probabilities": dict(zip(names, map(float, expit(row)), strict=True)),
            }
            for row in kept
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"labels": ["string"], "probabilities": dict.fromkeys(self.spec.labels, "double")}

    def gold(self, label: Label | None) -> list[str] | None:
        return None if label is None else [self.spec.labels[int(i)] for i in label]  # type: ignore[union-attr, arg-type]

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The labels as a JSON list, by number, or by name if the task says so."""
        numbers = [[i for i, z in enumerate(row) if z > 0] for row in kept]
        named: list[list[Any]] = [[self.spec.labels[i] if self.spec.submit_names else i for i in row] for row in numbers]
        return [json.dumps(row, ensure_ascii=False) for row in named]

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "any of", self.spec.labels
