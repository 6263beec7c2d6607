"""Classification: each text or pair has one of several labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem
from mat_ds.methods.ops import symmetric_kl
from mat_ds.tasks.example import Example, Label
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.labels import class_names, class_of, known_labels
from mat_ds.tasks.soft_labels import probabilities_of
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch
    from mat_ds.tasks.kinds.forms import LossForm


class Classification(Kind):
    name = "classification"
    problem_type = "single_label_classification"
    metrics = (
        "accuracy", "f1", "matthews_correlation", "balanced_accuracy", "f1_macro", "f1_weighted", "f1_micro", "precision_macro",
        "recall_macro", "auroc", "average_precision",
    )  # fmt: skip
    usual_metrics = ("accuracy",)
    label_dtype = "int64"
    stored_type = "int64"
    stratified = True
    distributions = confuses = calibrates = picks_largest = text_attacks = True
    directions = 2
    loss_options = ("class_weights", "label_smoothing", "focal_gamma")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not self.spec.labels:
            yield Problem("labels", None, f"are missing: a {self.name} task needs them", "list them, or write kind: regression")
        if "f1" in self.spec.metrics and len(self.spec.labels) != 2:
            yield Problem("metrics", "f1", "f1 needs exactly two labels, the second being the positive one", "take f1_macro")
        if self.spec.range:
            yield Problem(
                "range", self.spec.range, "is for regression, but the task has labels", "delete the range, or the labels"
            )

    @classmethod
    def fits(cls, config: Any) -> bool:
        return bool(config.num_labels > 1)

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        return TaskSpec(name="model", text=text, labels=tuple(str(config.id2label[i]) for i in range(config.num_labels)))

    def label(self, value: Any) -> Label:
        if (found := class_of(self.spec, value)) is None:
            raise ValueError(f"the label is none of {known_labels(self.spec)}")
        return found

    @property
    def soft_labels(self) -> bool:
        return self.stratified  # where a label is one class

    def probabilities(self, value: Any) -> tuple[float, ...] | None:
        if not self.soft_labels or class_of(self.spec, value) is not None:
            return None
        try:
            return probabilities_of(self.spec, value)
        except ValueError as error:
            raise ValueError(f"the label is none of {known_labels(self.spec)}, nor a probability for each: {error}") from None

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        return class_names(self.spec, names, where)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0, self.outputs - 1

    @property
    def outputs(self) -> int:
        return len(self.spec.labels)

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.spec.labels

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Cross-entropy."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), batch.labels, reduction="none")

    def trained_losses(self, logits: Tensor, batch: MicroBatch, form: LossForm) -> Tensor:
        from torch.nn.functional import one_hot

        given = batch.probabilities
        targets = one_hot(batch.labels, self.outputs).float() if given is None else given
        return form.cross_entropy(logits, targets) * form.weights(targets)

    def class_shares(self, example: Example) -> Mapping[int, float]:
        return dict(enumerate(example.probabilities)) if example.probabilities else {int(example.label): 1.0}  # type: ignore

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Symmetrised KL divergence, KL(p || q) + KL(q || p)."""
        return symmetric_kl(p_logits, q_logits)

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        return logits.argmax(-1) == batch.labels

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        from scipy.special import softmax

        return Answered([example.label or 0 for example in examples], kept.argmax(axis=1).tolist(), softmax(kept, axis=1))

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The predicted label and the probability of each label."""
        from scipy.special import softmax

        names = self.spec.labels
        return [
            {"label": names[int(row.argmax())], "probabilities": dict(zip(names, map(float, row), strict=True))}
            for row in softmax(kept, axis=1)
        ]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"label": "string", "probabilities": dict.fromkeys(self.spec.labels, "double")}

    def gold(self, label: Label | None) -> str | None:
        return None if label is None else self.spec.labels[int(label)]  # type: ignore[arg-type]

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The label's number, or its name if the task says so."""
        return [self.spec.labels[i] if self.spec.submit_names else str(i) for i in kept.argmax(axis=1)]

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "one of", self.spec.labels
