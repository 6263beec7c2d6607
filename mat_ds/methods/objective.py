"""The two losses of a task, as methods see them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mat_ds.methods import ops


@dataclass(frozen=True)
class TaskObjective:
    """Losses of a classification task, or of a regression task (one logit, squared errors)."""

    regression: bool

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L: mean over the examples, a scalar."""
        return ops.task_loss(logits, labels, self.regression)

    def divergence(self, p_logits: Tensor, q_logits: Tensor) -> Tensor:
        """R: one number per example, (B,)."""
        return ops.divergence(p_logits, q_logits, self.regression)
