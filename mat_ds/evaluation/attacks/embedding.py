"""Attack on word embeddings: projected gradient ascent on a loss in a ball (Madry et al., 2018), for evaluation.

Shapes: B samples, L tokens, H width of the word embeddings, E radii. A perturbation delta is (texts, L, H) in fp32, with a text
for each sample or each choice of one, and zero on padding. Special tokens are perturbed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.embedding_balls import Ball
from mat_ds.evaluation.attacks.embedding_losses import ASCENDED
from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.embedding_steps import SCHEDULES
from mat_ds.evaluation.scores import Outcome, outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.tasks.kinds.base import Kind

# Maps a perturbation of the word embeddings (None: clean) to logits; the model may be one or an ensemble.
Perturbed = Callable[[Tensor | None], Tensor]
# The worst outcome of each example that is found in the ball of a radius.
Search = Callable[[float], Outcome]


def worse(one: Outcome, other: Outcome) -> Outcome:
    """The worse of two outcomes per example: wrong before right, then the larger loss; `one` on ties. In a task whose answers
    are not right or wrong, none counts as wrong."""
    take = other.losses > one.losses
    if one.right is not None and other.right is not None:
        take = (one.right & ~other.right) | ((one.right == other.right) & take)
    return Outcome(*(_choose(take, ours, theirs) for ours, theirs in zip(one, other, strict=True)))  # type: ignore[arg-type]


def _choose(take: Tensor, ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
    """Rows of `theirs` where `take` (B,) says so, else of `ours`."""
    if ours is None or theirs is None:
        return None
    return torch.where(take.view(-1, *[1] * (ours.dim() - 1)), theirs, ours)


@dataclass(frozen=True)
class GradientAttack:
    """Gradient ascent in a ball.

    Attributes:
        ball: that the perturbations stay in.
        steps: number of gradient steps.
        step_size: length of the first step as a share of the radius.
        loss: a name in `ASCENDED`.
        schedule: a name in `SCHEDULES`.
    """

    ball: Ball
    steps: int
    step_size: float
    loss: str = "task"
    schedule: str = "fixed"

    @classmethod
    def of(cls, options: AttackOptions) -> GradientAttack:
        """The ascent that the options ask for."""
        return cls(Ball(options.norm, options.ball), options.steps, options.first_step, options.loss, options.schedule)

    def worst_in_ball(
        self, perturbed: Perturbed, batch: MicroBatch, begin: Tensor, radius: float, kind: Kind, guide: Perturbed | None = None
    ) -> Outcome:
        """The worst of all `steps + 1` iterates of one ascent, including the random start.

        Args:
            perturbed: the model.
            batch: what is attacked.
            begin: start in the ball of radius 1.
            radius: of the ball.
            kind: of the task.
            guide: another model, whose gradients are followed; None: the model's own.
        """
        steps = SCHEDULES[self.schedule](self.ball, radius, self.step_size * radius, self.steps, batch.mask)
        ascended = ASCENDED[self.loss]
        delta, worst = radius * begin, None
        for k in range(self.steps + 1):
            delta.requires_grad_()
            with torch.set_grad_enabled(k < self.steps):
                logits = (guide or perturbed)(delta)
                found = outcome(kind, logits, batch)
                losses = found.losses if ascended is None else ascended(logits, batch)
            if guide is not None:
                with torch.no_grad():
                    found = outcome(kind, perturbed(delta.detach()), batch)
            seen = Outcome(*(None if part is None else part.detach() for part in found))  # type: ignore[arg-type]
            worst = seen if worst is None else worse(worst, seen)
            if k < self.steps:
                # The sum, since a mean would push small gradients of confident answers closer to underflow.
                (gradient,) = torch.autograd.grad(losses.sum(), delta)
                delta = steps.after(delta.detach(), losses.detach(), gradient)
        assert worst is not None
        return worst

    def gradient(self, perturbed: Perturbed, batch: MicroBatch, delta: Tensor, kind: Kind) -> Tensor:
        """The gradient, with respect to a perturbation, of what is ascended: (texts, L, H)."""
        delta, ascended = delta.detach().requires_grad_(), ASCENDED[self.loss]
        with torch.enable_grad():
            logits = perturbed(delta)
            losses = kind.losses(logits, batch) if ascended is None else ascended(logits, batch)
        return torch.autograd.grad(losses.sum(), delta)[0]

    def from_each(
        self, perturbed: Perturbed, batch: MicroBatch, begins: Sequence[Tensor], kind: Kind, guide: Perturbed | None = None
    ) -> Search:
        """Searches with an ascent from each of the starts."""

        def search(radius: float) -> Outcome:
            worst = self.worst_in_ball(perturbed, batch, begins[0], radius, kind, guide)
            for begin in begins[1:]:
                worst = worse(worst, self.worst_in_ball(perturbed, batch, begin, radius, kind, guide))
            return worst

        return search


def worst_at_each(clean: Outcome, radii: Sequence[float], search: Search) -> Outcome:
    """The worst outcome of each example at each radius, each part (B, E, ...).

    The worst outcome at a smaller radius also counts at larger ones, whose balls contain it. So accuracy never rises with
    the radius, and the mean loss of a regression never falls.

    Args:
        clean: the outcome without a perturbation, which stands first.
        radii: ascending; the first is 0.
        search: in one ball.
    """
    curve = [clean]
    for radius in radii[1:]:
        curve.append(worse(curve[-1], search(radius)))
    parts = zip(*curve, strict=True)
    return Outcome(*(None if part[0] is None else torch.stack(part, 1) for part in parts))  # type: ignore[arg-type]


def robustness_curve(
    perturbed: Perturbed,
    batch: MicroBatch,
    begins: Sequence[Tensor],
    radii: Sequence[float],
    ascent: GradientAttack,
    kind: Kind,
) -> Outcome:
    """`worst_at_each` of the ascent from each of the starts."""
    with torch.no_grad():
        clean = outcome(kind, perturbed(None), batch)
    return worst_at_each(clean, radii, ascent.from_each(perturbed, batch, begins, kind))
