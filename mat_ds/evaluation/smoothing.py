"""Randomised smoothing of the word embeddings (Cohen et al., 2019): a certificate in embedding space.

The smoothed classifier g answers with the class that the model gives most often to x + e, where x are the word embeddings of an
example's real tokens and e ~ N(0, sigma^2 I). If the largest class has a probability p > 1/2, g answers the same everywhere
within the L2 radius sigma Phi^-1(p) of x (Theorem 1). This is said of g, not of the model, and of embeddings, not of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.embedding import Perturbed
from mat_ds.evaluation.attacks.embedding_balls import Keys, drawn
from mat_ds.evaluation.smoothing_options import SmoothingOptions, largest_radius
from mat_ds.methods.batch import MicroBatch

WHAT = (
    "a certificate in embedding space: within the L2 radius of an example's word embeddings, all its tokens together, the "
    "smoothed classifier (the class most frequent under Gaussian noise) does not change its answer; it says nothing about the "
    "model without noise, nor about texts"
)
# Where the curve of certified accuracy is read, as multiples of sigma.
MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0)


@dataclass(frozen=True)
class Certified:
    """What is certified about an example.

    Attributes:
        answer: the class; None: it abstains.
        share: lower bound of the probability of the class.
        radius: certified; 0 if it abstains.
    """

    answer: int | None
    share: float
    radius: float


def lower_bound(hits: int, count: int, alpha: float) -> float:
    """The one-sided lower confidence bound of a probability (Clopper and Pearson, 1934), given `hits` of `count`."""
    from scipy.stats import beta

    return float(beta.ppf(alpha, hits, count - hits + 1)) if hits else 0.0


def certificate(selecting: Tensor, certifying: Tensor, options: SmoothingOptions) -> Certified:
    """CERTIFY of Cohen et al. (2019), section 3.2.2.

    Args:
        selecting, certifying: votes for each class, (C,).
        options: sigma and alpha.
    """
    from scipy.stats import norm

    assert options.sigma is not None
    answer = int(selecting.argmax())
    share = lower_bound(int(certifying[answer]), int(certifying.sum()), options.alpha)
    if share <= 0.5:
        return Certified(None, share, 0.0)
    return Certified(answer, share, options.sigma * float(norm.ppf(share)))


@torch.no_grad()
def votes(perturbed: Perturbed, batch: MicroBatch, keys: Sequence[Keys], width: int, sigma: float) -> Tensor:
    """How often each class is the answer under noise, (C,).

    Args:
        perturbed: the model.
        batch: one example as often as there are draws.
        keys: for each draw, those of the example's texts.
        width: H.
        sigma: standard deviation of the noise.
    """
    flat = [key for texts in keys for key in texts]
    noise = drawn(flat, batch.mask, width, lambda shape, source: torch.randn(shape, generator=source))
    logits = perturbed(sigma * noise)
    return torch.bincount(logits.argmax(-1), minlength=logits.shape[-1]).cpu()


def certified_curve(found: Sequence[tuple[Certified, int]], options: SmoothingOptions) -> dict[str, Any]:
    """What the report says of a split.

    Args:
        found: for each example its certificate and its label.
        options: of the certificate.

    Returns:
        Among others `points`: the share of examples that are answered rightly with a certified radius of at least each
        `radius`; `largest_radius`, which no example can exceed with so many votes.
    """
    assert options.sigma is not None
    largest = largest_radius(options)
    radii = sorted(
        {*options.radii, *(options.sigma * multiple for multiple in MULTIPLES if options.sigma * multiple <= largest)}
    )
    right = [one.radius for one, label in found if one.answer == label]
    return {
        "what": WHAT,
        "sigma": options.sigma, "alpha": options.alpha, "select": options.select, "samples": options.samples,
        "examples": len(found),
        "abstained": sum(one.answer is None for one, _ in found),
        "largest_radius": largest,
        "points": [
            {"radius": radius, "certified_accuracy": sum(one >= radius for one in right) / len(found)} for radius in radii
        ],
    }  # fmt: skip


def certificate_lines(rows: Sequence[int], found: Sequence[tuple[Certified, int]]) -> Iterator[dict[str, Any]]:
    """A line for each certified example, for the file beside the report."""
    for row, (one, label) in zip(rows, found, strict=True):
        yield {"row": row, "label": label, "answer": one.answer, "share": one.share, "radius": one.radius}
