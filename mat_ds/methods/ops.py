"""The tensor maths of adversarial fine-tuning: pure functions in the symbols of the papers.

Shapes: B examples, L tokens, H hidden units of the word embedding, C classes. A perturbation delta (B, L, H) is in fp32;
`mask` (B, L, 1) is 1 on real tokens and 0 on padding. "Per sample" means over L and H together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Symmetric KL divergence: (..., C) -> (...), computed in fp32.

    sKL(p, q) = KL(p||q) + KL(q||p) = sum_c (p_c - q_c)(log p_c - log q_c)
    """
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def linf(x: Tensor) -> Tensor:
    """Largest absolute entry per sample: (B, L, H) -> (B, 1, 1)."""
    return x.abs().amax((1, 2), keepdim=True)


def l2(x: Tensor) -> Tensor:
    """Euclidean norm per sample: (B, L, H) -> (B, 1, 1). Entries are scaled so that their squares do not underflow."""
    largest = linf(x)
    # The sum is at least one, except for a zero sample. There `clamp` gives the root a finite derivative.
    return largest * divide(x, largest).square().sum((1, 2), keepdim=True).clamp(min=1.0).sqrt()


def by_sample(x: Tensor, samples: int) -> Tensor:
    """All texts of each sample one after another: (B, L, H) -> (samples, B L / samples, H)."""
    return x.reshape(samples, -1, x.shape[-1])


def divide(x: Tensor, norm: Tensor) -> Tensor:
    """x / norm, and zero where the norm is zero, so that a sample without a gradient does not move."""
    return (x / norm.where(norm > 0, 1.0)).where(norm > 0, 0.0)


def root_of_entries(mask: Tensor, width: int) -> Tensor:
    """The root of the number of entries of each sample's perturbation, real tokens x H: (B, L, 1) -> (B, 1, 1); 1 if there are
    none."""
    return (mask.sum((1, 2), keepdim=True) * width).clamp(min=1.0).sqrt()


def normalise(g: Tensor, kind: str) -> Tensor:
    """The direction of ascent of each sample: g / ||g||_inf (`linf`), g / ||g||_2 (`l2`), sign(g) entry by entry (`sign`), or g
    (`raw`); (B, L, H)."""
    ways = {"linf": lambda: divide(g, linf(g)), "l2": lambda: divide(g, l2(g)), "sign": g.sign, "raw": lambda: g}
    return ways[kind]()


def project(delta: Tensor, radius: float, kind: str) -> Tensor:
    """Bounds the norm of each sample's delta by `radius`.

    Args:
        delta: (B, L, H).
        radius: the bound.
        kind: `rescale` shrinks a sample whose Linf norm is too large (MAT's released code), `clamp` cuts each entry to the
            radius, and `l2` shrinks a sample whose Euclidean norm is too large (FreeLB).
    """
    if kind == "l2":
        return delta * (radius / l2(delta).clamp(min=radius))
    if kind == "clamp":
        return delta.clamp(-radius, radius)
    # Rounding can leave the result just above the radius. The second clamp makes the bound exact.
    return (delta * (radius / linf(delta).clamp(min=radius))).clamp(-radius, radius)
