"""Counter-based random numbers: the published generator, its distributions, and draws that depend on position and key only."""

import itertools
import math

import pytest
import torch

from mat_ds.methods.batch import MicroBatch
from mat_ds.sampling import philox
from mat_ds.sampling.keys import noise_key

# Known answers of Philox4x32-10 from the authors' Random123 (kat_vectors): counter, key, result.
KNOWN = [
    ((0x00000000,) * 4, (0x00000000,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
DRAWS = {"normal": philox.normal, "uniform": philox.uniform}
# Cumulative distribution, variance and fourth moment of one number.
NORMAL = lambda x: (1 + torch.erf(x / math.sqrt(2))) / 2, 1.0, 3.0
UNIFORM = lambda x: (x + 1) / 2, 1 / 3, 1 / 5


def numbers(kind, examples=16, tokens=32, width=256, key=7):
    """(examples, tokens, width) fp64."""
    columns = torch.arange(tokens).expand(examples, tokens)
    return DRAWS[kind](key, torch.arange(examples), columns, width).double()


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_the_generator_gives_the_authors_known_answers(counter, key, expected):
    words = philox.philox(tuple(torch.tensor(word) for word in counter), key)
    assert tuple(map(int, words)) == expected


def test_broadcast_counters_give_the_same_words():
    axes = [torch.arange(n) * 977_000_111 % philox.WORD for n in (2, 3, 4, 5)]
    spread = [axis.view([-1 if i == j else 1 for j in range(4)]) for i, axis in enumerate(axes)]
    whole = torch.stack(torch.broadcast_tensors(*philox.philox(tuple(spread), (1, 2))), -1)
    for at in itertools.product(*map(range, (2, 3, 4, 5))):
        alone = philox.philox(tuple(axis[i] for axis, i in zip(axes, at, strict=True)), (1, 2))
        assert tuple(whole[at].tolist()) == tuple(map(int, alone))


@pytest.mark.parametrize("kind, law", [("normal", NORMAL), ("uniform", UNIFORM)])
def test_moments_and_distribution_are_those_of_the_law(kind, law):
    distribution, variance, fourth = law
    x = numbers(kind).flatten()
    n = x.numel()
    # Five standard errors; the draws are fixed, so this does not fail by chance.
    assert abs(x.mean()) < 5 * (variance / n) ** 0.5
    assert abs(x.square().mean() - variance) < 5 * ((fourth - variance**2) / n) ** 0.5
    assert abs(x.pow(3).mean()) < 5 * (15 / n) ** 0.5
    ordered, steps = distribution(x.sort().values), torch.arange(n + 1).double() / n
    largest_gap = max((ordered - steps[:-1]).abs().max(), (steps[1:] - ordered).abs().max())
    assert largest_gap < 1.95 / n**0.5  # Kolmogorov and Smirnov at 0.001


def test_uniform_numbers_lie_in_their_interval_and_normal_ones_reach_the_tail():
    uniform, normal = numbers("uniform").flatten(), numbers("normal", examples=64).flatten()
    assert -1 <= uniform.min() < -0.9999 and 0.9999 < uniform.max() < 1
    assert normal.isfinite().all() and 4 < normal.abs().max() < 7
    beyond_three = (normal.abs() > 3).double().mean()
    assert beyond_three == pytest.approx(2.7e-3, rel=0.05)


@pytest.mark.parametrize("kind", DRAWS)
def test_examples_tokens_units_names_steps_and_seeds_are_independent(kind):
    x = numbers(kind)
    keys = [noise_key(seed, step, name) for seed in (0, 1) for step in (0, 1) for name in ("delta", "noise")]
    by_key = torch.stack([numbers(kind, examples=8, key=key).flatten() for key in keys])
    for axis in (x.flatten(1), x.transpose(0, 1).flatten(1), x.flatten(0, 1).T, by_key):
        correlations = torch.corrcoef(axis).fill_diagonal_(0.0)
        assert correlations.abs().max() < 5.5 / axis.shape[1] ** 0.5
    squares = torch.corrcoef(x.flatten(0, 1).T.square()).fill_diagonal_(0.0)  # the numbers of a pair have the same radius
    assert squares.abs().max() < 5.5 / (16 * 32) ** 0.5
    assert len(x.flatten().unique()) > 0.95 * x.numel()


def cut(batch, micro, padding=0, left=False):
    """Cuts a global batch into micro-batches, each truncated, with more padding, or padded on the left."""
    result = []
    for index in range(len(batch) // micro):
        lengths = batch[index * micro : (index + 1) * micro]
        mask = torch.zeros(micro, max(lengths) + padding, dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, slice(-length, None) if left else slice(0, length)] = 1
        result.append(MicroBatch({"input_ids": mask, "attention_mask": mask}, torch.zeros(micro), index))
    return result


def drawn(kind, batches, width=10):
    """The numbers of the real tokens, for each example of the global batch."""
    rows = []
    for batch in batches:
        delta = DRAWS[kind](5, batch.examples, batch.tokens, width)
        rows += [row[mask.bool()] for row, mask in zip(delta, batch.inputs["attention_mask"], strict=True)]
    return rows


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("micro", [1, 2, 4, 8])
@pytest.mark.parametrize("padding, left", [(0, False), (5, False), (3, True)])
def test_an_examples_numbers_do_not_depend_on_its_micro_batch_or_padding(kind, micro, padding, left):
    lengths = [3, 9, 1, 4, 7, 7, 2, 5]
    whole, parts = (drawn(kind, cut(lengths, m, p, s)) for m, p, s in ((8, 0, False), (micro, padding, left)))
    assert [len(row) for row in parts] == lengths
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


@pytest.mark.parametrize("kind", DRAWS)
def test_how_many_are_drawn_at_once_changes_nothing(kind, monkeypatch):
    whole = numbers(kind, width=37)
    monkeypatch.setattr(philox, "CPU_BLOCKS", 1)
    assert torch.equal(numbers(kind, width=37), whole)
