"""Attacks on word embeddings that follow no gradient of the model: what they find, an attack with gradients should find too.

Shapes are those of `embedding`. Random numbers depend on the key of each text only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.embedding import Perturbed, Search, worse
from mat_ds.evaluation.attacks.embedding_balls import Ball, Keys, drawn, random_signs
from mat_ds.evaluation.attacks.embedding_losses import margin_loss
from mat_ds.evaluation.scores import Outcome, outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.ops import l2
from mat_ds.tasks.kinds.base import Kind

# Of SPSA: pairs of passes for each estimate of a gradient, how much of the last estimate each keeps, and length of a step and
# distance of a pair as shares of the radius.
PAIRS, MOMENTUM, STEP, PROBE = 8, 0.9, 0.5, 0.5
# Passes of one step of SPSA, one of them at the new point.
STEP_QUERIES = 2 * PAIRS + 1


def more(keys: Keys, *parts: int | str) -> Keys:
    """The keys with further parts."""
    return [(*key, *parts) for key in keys]


def random_search(
    perturbed: Perturbed, batch: MicroBatch, ball: Ball, keys: Keys, width: int, tries: int, kind: Kind
) -> Search:
    """The worst of random perturbations on the surface of the ball.

    Args:
        perturbed, batch, kind: what is attacked.
        ball: that the perturbations are in.
        keys: one per text.
        width: H.
        tries: how many.
    """

    @torch.no_grad()
    def search(radius: float) -> Outcome:
        worst = None
        for i in range(tries):
            found = outcome(kind, perturbed(radius * ball.surface(more(keys, "random", i), batch.mask, width)), batch)
            worst = found if worst is None else worse(worst, found)
        assert worst is not None
        return worst

    return search


def spsa(perturbed: Perturbed, batch: MicroBatch, ball: Ball, keys: Keys, width: int, queries: int, kind: Kind) -> Search:
    """GradientAttack along gradients estimated from differences, SPSA (Spall, 1992; against defences: Uesato et al., 2018):

        g_k = 0.9 g_{k-1} + sum_v (f(delta_k + c v) - f(delta_k - c v)) v,   delta_{k+1} = P[delta_k + step a(g_k)]

    over random v with entries -1 and 1 (for l2 of length 1), where f is the margin of the logits, which no softmax
    saturates, or the task's loss where answers are not the largest logit.

    Args:
        queries: passes of each example.
        perturbed, batch, ball, keys, width, kind: as in `random_search`.
    """

    def heights(delta: Tensor) -> Tensor:
        logits = perturbed(delta)
        losses = margin_loss(logits, batch) if kind.picks_largest else kind.losses(logits, batch)
        return losses.repeat_interleave(len(delta) // len(losses)).view(-1, 1, 1)

    @torch.no_grad()
    def search(radius: float) -> Outcome:
        delta = radius * ball.start(more(keys, "spsa"), batch.mask, width)
        estimate, worst = torch.zeros_like(delta), outcome(kind, perturbed(delta), batch)
        for k in range(max(1, queries // STEP_QUERIES)):
            estimate *= MOMENTUM
            for pair in range(PAIRS):
                v = drawn(more(keys, "spsa", k, pair), batch.mask, width, random_signs)
                probe = PROBE * radius * (v if ball.norm == "linf" else v / l2(v).clamp(min=1.0))
                estimate += (heights(delta + probe) - heights(delta - probe)) * v
            delta = ball.project(delta + STEP * radius * ball.steepest(estimate), radius) * batch.mask
            worst = worse(worst, outcome(kind, perturbed(delta), batch))
        return worst

    return search
