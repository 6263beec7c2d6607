"""Projected gradient ascent on the task's loss in the space of word embeddings (Madry et al., 2018, eq. 3), for evaluation.

Shapes: B examples, L tokens, H hidden units of the word embedding, C classes, E radii. A perturbation delta (B, L, H) is
fp32 and zero on pads; its norms are per example, over (L, H) jointly. Special tokens are perturbed like words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mat_ds.methods.ops import l2, normalise
from mat_ds.sampling.keys import Part, generator
from mat_ds.tasks.kinds.base import Kind

# Logits (B, C) at a perturbation of the word embeddings; None: the clean ones.
Perturbed = Callable[[Tensor | None], Tensor]


class Worst(NamedTuple):
    """The worst outcome of each example so far: its answer (B, C), whether that is wrong (B,), its loss (B,)."""

    answer: Tensor
    wrong: Tensor
    loss: Tensor


def outcome(logits: Tensor, loss: Tensor, labels: Tensor, kind: Kind) -> Worst:
    """What `logits` are worth as an attack; a score is never wrong, only more or less off."""
    right = kind.right(logits, labels)
    wrong = torch.zeros_like(labels, dtype=torch.bool) if right is None else ~right
    return Worst(logits.detach(), wrong, loss.detach())


def worse(one: Worst, other: Worst) -> Worst:
    """The worse of two outcomes, example by example: wrong before right, then the greater loss; `one` where they tie."""
    take = (other.wrong & ~one.wrong) | ((other.wrong == one.wrong) & (other.loss > one.loss))
    return Worst(
        torch.where(take.unsqueeze(-1), other.answer, one.answer),
        torch.where(take, other.wrong, one.wrong),
        torch.where(take, other.loss, one.loss),
    )


def into_ball(delta: Tensor, radius: float, norm: str) -> Tensor:
    """The point of each example's ball nearest to delta: entries cut (`linf`), or the whole shrunk (`l2`)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / l2(delta).clamp(min=radius))


def start(keys: Sequence[tuple[Part, ...]], mask: Tensor, width: int, norm: str) -> Tensor:
    """Random starts in the unit ball, a function of each example's key alone, however it is batched and padded.

    Uniform in the box for `linf`; for `l2` uniform on the sphere, where a ball of so many dimensions has its volume.

    Args:
        keys: one for each example.
        mask: (B, L, 1), 1 on real tokens.
        width: H.
    """
    delta = torch.zeros(*mask.shape[:2], width)
    for row, (key, real) in enumerate(zip(keys, mask.squeeze(-1).bool().cpu(), strict=True)):
        # On the CPU, whose stream is the same on every machine.
        source, shape = generator(torch.device("cpu"), *key), (1, int(real.sum()), width)
        if norm == "linf":
            delta[row, real] = torch.rand(shape, generator=source)[0] * 2 - 1
        else:
            delta[row, real] = normalise(torch.randn(shape, generator=source), "l2")[0]
    return delta.to(mask.device)


def worst_in_ball(
    perturbed: Perturbed, labels: Tensor, begin: Tensor, mask: Tensor, radius: float, norm: str, steps: int, step_size: float,
    kind: Kind,
) -> Worst:  # fmt: skip
    """PGD in the ball of one radius: the worst of all `steps + 1` iterates, the random start included.

        delta_0 = radius * begin,   delta_{k+1} = P[delta_k + step_size * radius * a_k] * mask,
        a_k = sign(grad) (linf) or grad / ||grad||_2 (l2),   P the projection into the ball

    Args:
        perturbed: the model.
        labels: (B,).
        begin: (B, L, H) start in the unit ball.
        mask: (B, L, 1), 1 on real tokens.
        radius: of the ball.
        norm: `linf` or `l2`.
        steps: gradient steps.
        step_size: length of one as a share of the radius.
        kind: of the task.
    """
    delta, worst = radius * begin, None
    for k in range(steps + 1):
        delta.requires_grad_()
        with torch.set_grad_enabled(k < steps):
            logits = perturbed(delta)
            loss = kind.loss(logits, labels, "none")
        found = outcome(logits, loss, labels, kind)
        worst = found if worst is None else worse(worst, found)
        if k < steps:
            # The sum: a mean would bring the small gradients of confident answers nearer to underflow.
            (gradient,) = torch.autograd.grad(loss.sum(), delta)
            direction = gradient.sign() if norm == "linf" else normalise(gradient, "l2")
            delta = into_ball(delta.detach() + step_size * radius * direction, radius, norm) * mask
    assert worst is not None
    return worst


def robustness_curve(
    perturbed: Perturbed, labels: Tensor, begin: Tensor, mask: Tensor, radii: Sequence[float], norm: str, steps: int,
    step_size: float, kind: Kind,
) -> Tensor:  # fmt: skip
    """Worst logits of each example in the ball of each radius: (B, E, C).

    A ball contains the smaller ones, so what was found at a smaller radius counts at a larger one too: accuracy never
    rises with the radius, and the mean loss of a regression never falls.

    Args:
        radii: in rising order; the first is 0, the clean logits.
    """
    with torch.no_grad():
        clean = perturbed(None)
    worst = outcome(clean, kind.loss(clean, labels, "none"), labels, kind)
    curve = [worst.answer]
    for radius in radii[1:]:
        found = worst_in_ball(perturbed, labels, begin, mask, radius, norm, steps, step_size, kind)
        worst = worse(worst, found)
        curve.append(worst.answer)
    return torch.stack(curve, 1)
