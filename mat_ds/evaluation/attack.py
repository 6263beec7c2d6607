"""PGD attack: projected gradient ascent on the task's loss in embedding space (Madry et al., 2018, eq. 3), for evaluation.

Shapes: B examples, L tokens, H width of the word embeddings, E radii. A perturbation delta (B, L, H) is fp32 and
zero on padding; norms are per example, over (L, H). Special tokens are perturbed as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mat_ds.evaluation.scores import Outcome, outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.ops import l2, normalise
from mat_ds.sampling.keys import Part, generator
from mat_ds.tasks.kinds.base import Kind

# Maps a perturbation of the word embeddings (None: clean) to logits.
Perturbed = Callable[[Tensor | None], Tensor]


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


def into_ball(delta: Tensor, radius: float, norm: str) -> Tensor:
    """Projects delta onto each example's ball: clips entries (`linf`) or rescales (`l2`)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / l2(delta).clamp(min=radius))


def start(keys: Sequence[tuple[Part, ...]], mask: Tensor, width: int, norm: str) -> Tensor:
    """Random starts in the unit ball, depending only on each example's key, not on batching or padding.

    Uniform in the box for `linf`. Uniform on the sphere for `l2`, where almost all volume of a high-dimensional ball is.

    Args:
        keys: one per example.
        mask: (B, L, 1), 1 on real tokens.
        width: H.

    Returns:
        (B, L, H) fp32.
    """
    delta = torch.zeros(*mask.shape[:2], width)
    for row, (key, real) in enumerate(zip(keys, mask.squeeze(-1).bool().cpu(), strict=True)):
        if not real.any():  # a choice that a question lacks
            continue
        # Drawn on the CPU, whose random numbers are the same on every machine.
        source, shape = generator(torch.device("cpu"), *key), (1, int(real.sum()), width)
        if norm == "linf":
            delta[row, real] = torch.rand(shape, generator=source)[0] * 2 - 1
        else:
            delta[row, real] = normalise(torch.randn(shape, generator=source), "l2")[0]
    return delta.to(mask.device)


def worst_in_ball(
    perturbed: Perturbed, batch: MicroBatch, begin: Tensor, radius: float, norm: str, steps: int, step_size: float, kind: Kind
) -> Outcome:
    """PGD in the ball of one radius: the worst of all `steps + 1` iterates, including the random start.

        delta_0 = radius * begin,   delta_{k+1} = P[delta_k + step_size * radius * a_k] * mask,
        a_k = sign(grad) (linf) or grad / ||grad||_2 (l2),   P the projection into the ball

    Args:
        perturbed: the model.
        batch: what is attacked.
        begin: (B, L, H) start in the unit ball.
        radius: of the ball.
        norm: `linf` or `l2`.
        steps: number of gradient steps.
        step_size: step length as a fraction of the radius.
        kind: of the task.
    """
    delta, worst = radius * begin, None
    for k in range(steps + 1):
        delta.requires_grad_()
        with torch.set_grad_enabled(k < steps):
            logits = perturbed(delta)
            found = outcome(kind, logits, batch)
        seen = Outcome(*(None if part is None else part.detach() for part in found))  # type: ignore[arg-type]
        worst = seen if worst is None else worse(worst, seen)
        if k < steps:
            # The sum, since a mean would push small gradients of confident answers closer to underflow.
            (gradient,) = torch.autograd.grad(found.losses.sum(), delta)
            direction = gradient.sign() if norm == "linf" else normalise(gradient, "l2")
            delta = into_ball(delta.detach() + step_size * radius * direction, radius, norm) * batch.mask
    assert worst is not None
    return worst


def robustness_curve(
    perturbed: Perturbed, batch: MicroBatch, begin: Tensor, radii: Sequence[float], norm: str, steps: int, step_size: float,
    kind: Kind,
) -> Outcome:  # fmt: skip
    """The worst outcome of each example at each radius, each part (B, E, ...).

    The worst outcome at a smaller radius also counts at larger ones, whose balls contain it. So accuracy never rises with
    the radius, and the mean loss of a regression never falls.

    Args:
        radii: ascending; the first is 0, for clean logits.
    """
    with torch.no_grad():
        worst = outcome(kind, perturbed(None), batch)
    curve = [worst]
    for radius in radii[1:]:
        worst = worse(worst, worst_in_ball(perturbed, batch, begin, radius, norm, steps, step_size, kind))
        curve.append(worst)
    parts = zip(*curve, strict=True)
    return Outcome(*(None if part[0] is None else torch.stack(part, 1) for part in parts))  # type: ignore[arg-type]
