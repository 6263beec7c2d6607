"""The tensor maths of adversarial fine-tuning: pure functions in the symbols of the papers.

Shapes: B examples, L tokens, H hidden units of the word embedding, C classes. A perturbation delta (B, L, H) is fp32;
`mask` (B, L, 1) is 1 on real tokens and 0 on pads. Whatever is said to be per sample is over (L, H) jointly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-8
# Of the second moment: torch's defaults.
DECAYS = {"rmsprop": 0.99, "adam": 0.999}


def symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """sKL(p, q) = KL(p||q) + KL(q||p) = sum_c (p_c - q_c)(log p_c - log q_c), from log_softmax in fp32: (..., C) -> (...)."""
    log_p, log_q = p_logits.float().log_softmax(-1), q_logits.float().log_softmax(-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def linf(x: Tensor) -> Tensor:
    """Largest absolute entry per sample: (B, L, H) -> (B, 1, 1)."""
    return x.abs().amax((1, 2), keepdim=True)


def l2(x: Tensor) -> Tensor:
    """Euclidean norm per sample: (B, L, H) -> (B, 1, 1), free of underflow in the squares."""
    largest = linf(x)
    # The largest entry makes the sum at least one, except of a zero sample, where a root would have no derivative.
    return largest * divide(x, largest).square().sum((1, 2), keepdim=True).clamp(min=1.0).sqrt()


def divide(x: Tensor, norm: Tensor) -> Tensor:
    """x / norm, and zero where the norm is zero: a sample without a gradient takes no step."""
    return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1.0), 0.0)


def normalise(g: Tensor, kind: str) -> Tensor:
    """The ascent direction of each sample: g / ||g||_inf, g / ||g||_2, or g itself (`linf`, `l2`, `raw`)."""
    return {"linf": lambda: divide(g, linf(g)), "l2": lambda: divide(g, l2(g)), "raw": lambda: g}[kind]()


def project(delta: Tensor, radius: float, kind: str) -> Tensor:
    """Bounds the norm of each sample's delta by `radius`.

    Args:
        delta: (B, L, H).
        kind: of the Linf norm, `rescale` shrinks the whole sample to the radius (MAT's released code) and `clamp` cuts
            each entry; `l2` shrinks the whole sample to the Euclidean radius (FreeLB).
    """
    if kind == "l2":
        return delta * (radius / l2(delta).clamp(min=radius))
    if kind == "clamp":
        return delta.clamp(-radius, radius)
    # The quotient of two roundings can end an ulp above the radius, and the bound is a promise.
    return (delta * (radius / linf(delta).clamp(min=radius))).clamp(-radius, radius)


class Moments(NamedTuple):
    """Running moments of one perturbation's gradients and how many gradients entered them; fresh for every batch."""

    steps: int
    exp_avg: Tensor
    exp_avg_sq: Tensor


def precondition(g: Tensor, moments: Moments | None, kind: str) -> tuple[Tensor, Moments | None]:
    """P(g) of SGLD: identity, RMSprop (alpha 0.99) or Adam (betas 0.9, 0.999), eps relative to the sample's largest root.

    A gradient of R at a radius of 1e-5 is far below any absolute eps, which would silently turn Adam into SGD.

    Args:
        g: (B, L, H).
        moments: what the earlier steps on this batch left, None at the first.
        kind: `none`, `rmsprop` or `adam`.
    """
    if kind == "none":
        return g, None
    count, m, v = moments or Moments(0, torch.zeros_like(g), torch.zeros_like(g))
    # Squares of the smallest gradients leave fp32; they are scaled out with each sample's largest entry in fp64.
    decay = DECAYS[kind]
    count, m, v = count + 1, m.lerp(g, 0.1), v.double().lerp(g.double().square(), 1 - decay)
    root = (v / (1 - decay**count) if kind == "adam" else v).sqrt()
    direction = (m / (1 - 0.9**count) if kind == "adam" else g) / (root + EPS * linf(root)).clamp(min=1e-300)
    return direction.float(), Moments(count, m, v)
