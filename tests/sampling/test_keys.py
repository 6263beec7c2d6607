"""Keyed randomness: a draw depends on its key only, and a slice of a vector equals that part of the whole vector."""

import itertools
import math

import pytest
import torch

from mat_ds.sampling import philox
from mat_ds.sampling.keys import CHUNK, add_normal_, generator, seed_from
from mat_ds.sampling.slices import Slice, blocks_of

CPU = torch.device("cpu")
KEY = 7, 3, "theta", 1, 0


def normal(key, total, offset, numel):
    """Elements of the vector of a key."""
    drawn = torch.zeros(numel)
    add_normal_(drawn, 1.0, key, total, offset)
    return drawn


def by_place(key, total, offset, numel):
    """The same of the sequence that a GPU's kernel draws."""
    return philox.normal_run(seed_from(*key), offset, numel, CPU)


both = pytest.mark.parametrize("draw", [normal, by_place])


def test_a_slice_is_the_same_however_the_vector_is_cut():
    total = 2 * CHUNK + 1000
    whole = normal(KEY, total, 0, total)
    for offset, numel in ((0, 10), (5, 1), (CHUNK - 3, 7), (CHUNK, CHUNK), (1, total - 2), (total - 1, 1)):
        assert torch.equal(normal(KEY, total, offset, numel), whole[offset : offset + numel]), (offset, numel)


def test_noise_is_added_at_its_scale():
    theta, numbers = torch.arange(100_000.0), normal(KEY, 100_000, 0, 100_000)
    add_normal_(theta[40_000:70_000], 0.5, KEY, 100_000, 40_000)
    expected = torch.arange(100_000.0).double()
    expected[40_000:70_000] += 0.5 * numbers[40_000:70_000].double()
    torch.testing.assert_close(theta.double(), expected, rtol=1e-7, atol=0)


def test_a_chunk_has_torchs_normal_numbers_for_the_seed_of_its_key():
    total = CHUNK + 1000
    for chunk, length in ((0, CHUNK), (1, 1000)):
        expected = torch.randn(length, generator=torch.Generator().manual_seed(seed_from(*KEY, chunk)))
        assert torch.equal(normal(KEY, total, chunk * CHUNK, length), expected)


@both
def test_different_keys_draw_different_numbers(draw):
    names = [(seed, step, "theta", k, parameter) for seed in (0, 1) for step in (0, 1) for k in (1, 2) for parameter in (0, 1)]
    drawn = torch.stack([draw(key, 64, 0, 64) for key in names])
    assert len(torch.unique(drawn, dim=0)) == len(names)


@both
def test_noise_has_the_moments_and_the_distribution_of_a_standard_normal(draw):
    x = draw(("statistics",), 4 * CHUNK, 0, 4 * CHUNK).double()
    n = x.numel()
    # Five standard errors; the draws are fixed, so this does not fail by chance.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs(x.pow(power).mean() - moment) < 5 * (variance / n) ** 0.5, power
    below, steps = (1 + torch.erf(x.sort().values / math.sqrt(2))) / 2, torch.arange(n + 1).double() / n
    assert max((below - steps[:-1]).abs().max(), (steps[1:] - below).abs().max()) < 1.95 / n**0.5  # Kolmogorov, at 0.001


@both
def test_positions_are_uncorrelated(draw):
    x = draw(("statistics",), 4 * CHUNK, 0, 4 * CHUNK).double()
    for lag, power in itertools.product((1, 2, 4, 7, 8, 16, 624, CHUNK, CHUNK + 8, 2 * CHUNK), (1, 2)):
        one, other = x[:-lag] ** power, x[lag:] ** power  # the two numbers of a Box-Muller pair have the same radius
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 5 / len(one) ** 0.5, (lag, power)


@both
def test_keys_are_uncorrelated(draw):
    names = itertools.product((0, 1), (0, 1, 2), ("theta",), (1, 2, 3), (0, 1))
    drawn = torch.stack([draw(name, CHUNK, 0, CHUNK) for name in names]).double()
    for power in (1, 2):
        assert torch.corrcoef(drawn**power).fill_diagonal_(0.0).abs().max() < 5 / CHUNK**0.5


def test_adjacent_slices_are_joined_in_order():
    first, second, apart = Slice(4, 50, 10, 3, 40, 0), Slice(1, 7, 0, 43, 7, 50), Slice(0, 9, 2, 60, 5, 57)
    blocks = blocks_of([apart, second, first])
    assert [(block.here, block.slices) for block in blocks] == [(slice(3, 50), (first, second)), (slice(60, 65), (apart,))]
    assert blocks_of([]) == []


def test_keys_with_other_boundaries_between_parts_differ():
    assert seed_from(1, 23) != seed_from(12, 3) != seed_from(123)
    assert seed_from("a", 1) != seed_from("a1")


def test_a_generator_depends_on_its_key_only():
    a, b = (torch.randn(5, generator=generator(CPU, 1, "x")) for _ in range(2))
    assert torch.equal(a, b)
