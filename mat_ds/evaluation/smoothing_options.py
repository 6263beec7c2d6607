"""Options of the certificate in embedding space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from mat_ds.config.section import Count, Positive, Section
from mat_ds.errors import Problem
from mat_ds.tasks.kinds.base import Kind


class SmoothingOptions(Section):
    sigma: Positive | None = Field(
        None,
        description="standard deviation of Gaussian noise on the word embeddings: certifies, for the classifier that votes "
        "over it, an L2 radius in embedding space (Cohen et al. 2019); nothing about texts; null: no certificate",
    )
    select: Count = Field(100, description="votes that choose the class of an example")
    samples: Count = Field(1000, description="further votes that certify it")
    alpha: Annotated[float, Field(gt=0.0, lt=0.5)] = Field(
        0.001, description="probability that the certificate of an example is wrong"
    )
    limit: Count = Field(100, description="examples of each split that are certified, drawn by the seed")
    radii: Annotated[tuple[Annotated[float, Field(ge=0.0)], ...], Field(strict=False)] = Field(
        (), description="further radii of the curve of certified accuracy, besides multiples of sigma"
    )


def smoothing_problems(options: SmoothingOptions, kind: Kind) -> Iterator[Problem]:
    """Yields problems of options that do not fit each other or the kind of task."""
    if options.sigma is None:
        return
    if not kind.picks_largest:
        reason = f"certifies votes for classes that exclude each other, but this is a task of {kind.name}"
        yield Problem("smoothing.sigma", options.sigma, reason, "leave it out")
    elif options.alpha ** (1 / options.samples) <= 0.5:
        reason = f"are so few that even with one class in all of them none is certified at alpha = {options.alpha:g}"
        yield Problem("smoothing.samples", options.samples, reason, "take more")
    elif options.radii and max(options.radii) > (largest := largest_radius(options)):
        reason = f"is more than {options.samples} votes at sigma = {options.sigma:g} can certify, {largest:.3g}"
        fix = "raise smoothing.sigma or smoothing.samples, or take less"
        yield Problem("the certified radius", f"{max(options.radii):g}", reason, fix)


def largest_radius(options: SmoothingOptions) -> float:
    """The radius that is certified if all votes agree; no example can exceed it."""
    from scipy.stats import norm

    assert options.sigma is not None
    return options.sigma * float(norm.ppf(options.alpha ** (1 / options.samples)))
