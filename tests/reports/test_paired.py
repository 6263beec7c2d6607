"""Paired statistics against their definitions: enumeration, simulated truth, planted effects."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from mat_ds.reports.paired import enough_seeds, holm, paired, sign_flip, variances


def crossed(generator, seeds, examples, mean=0.0, by_seed=0.0, by_example=0.0, together=0.0):
    """Differences (seeds, examples) with normal effects of the given standard deviations."""
    return (
        mean
        + by_seed * generator.normal(size=(seeds, 1))
        + by_example * generator.normal(size=(1, examples))
        + together * generator.normal(size=(seeds, examples))
    )


@pytest.mark.parametrize("values", [(0.3, -0.1, 0.4), (2.0, 1.0, 3.0, 0.5, 1.5), (0.0, 0.0, 0.0), (1.0, -1.0, 2.0, -2.0)])
def test_the_sign_flip_test_counts_the_signs_with_a_mean_as_far_from_zero(values):
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, values, strict=True)))
        for signs in product((1, -1), repeat=len(values))
    ]
    expected = sum(found >= abs(sum(values)) - 1e-9 for found in sums) / len(sums)
    assert sign_flip(np.array(values)) == pytest.approx(expected)


def test_many_seeds_are_tested_with_the_same_drawn_signs_each_time():
    values = np.random.default_rng(1).normal(0.1, 1.0, 24)
    drawn = sign_flip(values)
    signs = np.random.default_rng(2).choice([1, -1], (200_000, 24))
    expected = (abs(signs @ values) >= abs(values.sum())).mean()
    assert drawn == sign_flip(values) and drawn == pytest.approx(expected, abs=0.005) and 0.01 < drawn < 0.2


def test_of_seeds_alone_interval_and_equivalence_are_students():
    values = np.random.default_rng(3).normal(0.2, 1.0, 8)
    found, student = paired(values, margin=0.7), ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((student.low, student.high))
    below, above = ttest_1samp(values, 0.7, alternative="less"), ttest_1samp(values, -0.7, alternative="greater")
    assert found.equivalence == pytest.approx(max(below.pvalue, above.pvalue))
    inside = ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert (found.equivalence < 0.05) == (inside.low > -0.7 and inside.high < 0.7)


def test_the_variance_is_that_of_drawing_seeds_and_examples_anew():
    generator = np.random.default_rng(4)
    table = crossed(generator, 9, 40, by_seed=0.5, by_example=2.0)  # nothing that a seed and an example have together
    means = [
        table[generator.integers(9, size=9)][:, generator.integers(40, size=40)].mean() for _ in range(8000)
    ]  # the bootstrap divides by n, the estimate by n - 1
    by_seeds, by_examples = variances(table)
    assert by_seeds * 8 / 9 + by_examples * 39 / 40 == pytest.approx(np.var(means), rel=0.05)


def test_the_variance_is_right_on_average_also_where_seeds_and_examples_work_together():
    generator = np.random.default_rng(5)
    effects = {"by_seed": 0.3, "by_example": 1.0, "together": 2.0}
    truth = 0.3**2 / 5 + 1.0 / 50 + 2.0**2 / 250
    found = [sum(variances(crossed(generator, 5, 50, **effects))) for _ in range(2000)]
    assert np.mean(found) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(("by_seed", "by_example", "together"), [(1.0, 0.0, 0.0), (0.2, 2.0, 3.0), (0.5, 3.0, 0.0)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, by_seed, by_example, together):
    generator, draws = np.random.default_rng(6), 400
    covers = 0
    for _ in range(draws):
        table = crossed(generator, seeds, 60, 0.7, by_seed, by_example, together)
        found = paired(table)
        covers += found.low <= 0.7 <= found.high
    chance = 3 * (0.95 * 0.05 / draws) ** 0.5
    # Where the examples, which are many, decide, it covers more: its quantile is that of few seeds.
    assert 0.95 - chance < covers / draws < (0.95 + chance if not by_example else 1.01)


def test_a_planted_effect_is_found_and_none_is_not_found_more_often_than_the_level():
    generator = np.random.default_rng(7)
    found = {mean: np.mean([sign_flip(generator.normal(mean, 1.0, 8)) < 0.05 for _ in range(600)]) for mean in (0.0, 1.5)}
    assert found[0.0] < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5 and found[1.5] > 0.85


def test_equivalence_is_not_claimed_of_a_difference_of_the_margin():
    generator = np.random.default_rng(8)
    claimed = {
        mean: np.mean([paired(generator.normal(mean, 0.8, 8), 1.0).equivalence < 0.05 for _ in range(400)])
        for mean in (0.0, 1.0, -1.0)
    }
    level = 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert claimed[0.0] > 0.7 and claimed[1.0] < level and claimed[-1.0] < level


def test_fewer_than_three_seeds_have_no_interval_and_two_say_how_many_are_needed():
    one, two = paired(np.array([0.5]), 1.0), paired(np.array([0.0, 3.0]), 1.0)
    assert one.differences == (0.5,) and two.differences == (0.0, 3.0) and two.mean == 1.5
    for found in (one, two):
        assert (found.low, found.high, found.p, found.equivalence) == (None,) * 4
    assert one.needed is None
    # Near n = (1.96 * 2.12)^2 = 17.3, and a little more as the quantile is Student's.
    assert 17.3 < two.needed < 22


def test_enough_seeds_is_the_least_number_whose_interval_is_within_the_margin():
    assert enough_seeds(4.0, 0.0, 0.2) == pytest.approx((norm.ppf(0.975) * 2 / 0.2) ** 2, rel=0.02)
    number = enough_seeds(1.0, 0.0, 1.0)
    widths = {n: ttest_1samp(_with_variance_one(n), 0.0).confidence_interval(0.95).high for n in (number - 1, number)}
    assert widths[number] <= 1.0 < widths[number - 1]
    assert enough_seeds(1.0, 1.0, 0.5) == 0  # the examples alone are too few
    assert paired(np.zeros(4), 1.0).needed == 3 and paired(np.zeros(4), 1.0).equivalence == 0.0


def _with_variance_one(number):
    values = np.random.default_rng(9).normal(size=number)
    return (values - values.mean()) / values.std(ddof=1)


def test_holm_multiplies_the_least_by_the_number_of_comparisons_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []
