"""Regression: each text or pair has a score."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.example import Example, Label
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.labels import SHOWN, are_numbers, is_score, score_of
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch


class Regression(Kind):
    name = "regression"
    problem_type = "regression"
    metrics = ("pearson", "spearman", "mse", "mae")
    usual_metrics = ("pearson", "spearman")
    label_dtype = "float32"
    stored_type = "float64"
    loss_name = "mse"
    distributions = False
    directions = 1
    outputs = 1
    output_names = ("score",)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.spec.labels:
            yield Problem("labels", ", ".join(self.spec.labels), "a regression task has none", "delete them, or the kind")
        for spelling, label in self.spec.label_map.items():
            yield Problem(
                "label_map", {spelling: label}, "maps to a label, but a regression task has none", "list labels, or delete it"
            )
        if self.spec.submit_names:
            yield Problem("submit_names", True, "a regression has no label names", "delete it")

    @classmethod
    def fits(cls, config: Any) -> bool:
        return bool(config.num_labels == 1)

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        return TaskSpec(name="model", text=text, metrics=("pearson",))

    def label(self, value: Any) -> Label:
        if (score := score_of(value)) is None:
            raise ValueError("the label is not a number")
        low, high = self.spec.range or (-math.inf, math.inf)
        if math.isfinite(score) and low <= score <= high:
            return score
        raise ValueError(f"the score is outside [{low:g}, {high:g}]" if self.spec.range else "the score is not finite")

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        if are_numbers(names):
            return None
        if not all(map(is_score, names)):
            raise UserError(Problem(where, ", ".join(map(repr, names[:SHOWN])), "the classes of its labels are not scores",
                                    "write the scores themselves into the column"))  # fmt: skip
        return names

    @property
    def bounds(self) -> tuple[float, float]:
        return self.spec.range or (-sys.float_info.max, sys.float_info.max)

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Squared error of the single logit."""
        from torch.nn.functional import mse_loss

        return mse_loss(logits.float().squeeze(-1), batch.labels.float(), reduction="none")

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Squared difference (MAT, section 3.1)."""
        return (p_logits.float() - q_logits.float()).square().squeeze(-1)

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        return Answered([example.label or 0 for example in examples], kept[:, 0].tolist())

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The score."""
        return [{"score": float(row[0])} for row in kept]

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"score": "double"}

    def gold(self, label: Label | None) -> Label | None:
        return label

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The score, clipped to the task's range."""
        low, high = self.spec.range or (-math.inf, math.inf)
        return [f"{min(max(value, low), high):.3f}" for value in kept[:, 0]]

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "a score" + (" from {:g} to {:g}".format(*self.spec.range) if self.spec.range else ""), ()
