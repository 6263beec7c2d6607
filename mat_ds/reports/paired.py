"""Differences between two groups of runs, paired by seed: test, interval, equivalence, and how many seeds would do.

A seed has the same initial head, order of batches and masks in both groups, so what the seeds have in common cancels. Where the
answers to each example are known, the examples count as drawn too: a difference may be one of this dev set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

# Level of tests and, doubled for the two one-sided ones, of intervals.
LEVEL = 0.05
# Of fewer seeds there is no interval, and nothing after a plus-minus sign.
FEWEST = 3
# Up to so many seeds all signs are enumerated; of more as many are drawn, always the same ones.
ENUMERATED = 16
KEY = 20070401
# So many seeds are looked at to find enough for a margin.
MOST = 1000


@dataclass(frozen=True)
class Paired:
    """What the differences of the seeds say; None where there are too few of them.

    Attributes:
        differences: of each seed, averaged over the examples.
        low, high: of the interval of the mean with coverage 0.95, over seeds and, where known, examples.
        p: of the sign-flip test over the seeds, two-sided: that the differences are as likely positive as negative.
        equivalence: the larger p of two one-sided t tests, that the mean is outside the margin; None without a margin.
        needed: how many seeds would make the interval no wider than the margin to each side, given the spread seen. None if the
            spread or the margin is unknown, 0 if no number of seeds does, as there are too few examples.
    """

    differences: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    p: float | None = None
    equivalence: float | None = None
    needed: int | None = None

    @property
    def mean(self) -> float:
        return float(np.mean(self.differences))


def paired(differences: np.ndarray, margin: float | None = None) -> Paired:
    """Judges differences.

    Args:
        differences: (seeds,), or (seeds, examples) of the same examples in each row.
        margin: the largest difference that does not matter, in the unit of the differences; above 0.
    """
    table = np.asarray(differences, float).reshape(len(differences), -1)
    seeds, each = len(table), table.mean(axis=1)
    if seeds < 2:
        return Paired(tuple(map(float, each)))
    by_seeds, by_examples = variances(table)
    needed = None if margin is None else enough_seeds(by_seeds * seeds, by_examples, margin)
    if seeds < FEWEST:
        return Paired(tuple(map(float, each)), needed=needed)
    error, mean = sqrt(by_seeds + by_examples), float(each.mean())
    half = _half_width(seeds, error)
    outside = None if margin is None else _outside(abs(mean), error, seeds, margin)
    return Paired(tuple(map(float, each)), mean - half, mean + half, sign_flip(each), outside, needed)


def sign_flip(differences: np.ndarray) -> float:
    """The two-sided p of the mean of paired differences among those with every choice of signs (Fisher's randomisation test);
    exact for at most 16 seeds. The least that n seeds can give is 2 / 2^n: 5 of them never reach 0.05."""

    def mean(sample: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(sample.mean(axis=axis))

    resamples, generator = 2**ENUMERATED, np.random.default_rng(KEY)
    found = stats.permutation_test(
        (differences,), mean, permutation_type="samples", n_resamples=resamples, vectorized=True, random_state=generator
    )
    return float(found.pvalue)


def variances(table: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of (seeds, examples) by the draw of the seeds, and what the draw of the examples adds.

    Their sum is the variance of the bootstrap that draws seeds and examples anew, each with replacement (Owen 2007, "The
    pigeonhole bootstrap"), in closed form, as the mean needs no draws; with divisors that make it unbiased for few seeds, and
    without the bootstrap's own bias: it counts three times what belongs to a seed and an example together (McCullagh 2000).
    One column stands for examples that are not known.
    """
    seeds, examples = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    by_seeds = float(rows.var(ddof=1)) / seeds
    if examples < 2:
        return by_seeds, 0.0
    rest = table - rows[:, None] - columns + table.mean()
    together = float((rest**2).sum()) / ((seeds - 1) * (examples - 1)) / (seeds * examples)
    return by_seeds, max(0.0, float(columns.var(ddof=1)) / examples - together)


def enough_seeds(variance: float, by_examples: float, margin: float) -> int:
    """The least number of seeds whose interval is no wider than the margin to each side; 0 if there is none below 1,000.

    Args:
        variance: of the difference of one seed.
        by_examples: variance of the mean by the draw of the examples, which seeds do not lessen.
    """
    numbers = np.arange(FEWEST, MOST)
    errors = np.sqrt(variance / numbers + by_examples)
    fits = stats.t.ppf(1 - LEVEL / 2, numbers - 1) * errors <= margin
    return int(numbers[fits.argmax()]) if fits.any() else 0


def holm(values: Sequence[float]) -> list[float]:
    """The p values of several comparisons, corrected such that with the level 0.05 one false find among all of them is as rare
    (Holm 1979)."""
    order = np.argsort(values, kind="stable")
    raised = np.asarray(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [float(value) for value in corrected]


def _half_width(seeds: int, error: float) -> float:
    return float(stats.t.ppf(1 - LEVEL / 2, seeds - 1)) * error


def _outside(distance: float, error: float, seeds: int, margin: float) -> float:
    """p of the nearer bound of the margin (Schuirmann 1987)."""
    if error == 0:
        return float(distance >= margin)
    return float(stats.t.sf((margin - distance) / error, seeds - 1))
