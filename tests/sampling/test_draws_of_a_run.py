"""The draws of a run, recorded where they are made: their distributions, and that no draw depends on another or on batching."""

import itertools
import math

import pytest
import torch

from mat_ds.methods import METHODS
from mat_ds.sampling import philox
from tests.support.drawn import DrawnNoise, Recorder, StillSampler
from tests.support.kinds import CLASSIFICATION
from tests.support.tiny import global_batches, micro_batches, tiny_roberta

BATCHES = global_batches(3, examples=64)
MAT = {"name": "mat", "delta_steps": 3, "theta_steps": 3, "delta_noise": 1e-2, "theta_noise": 1e-2, "dropout": "off"}
SHAPES = [(120, 100), (120, 100), (120, 100)]


def perturbations(seed):
    """(outer step, index of the draw) -> the numbers of all real tokens."""
    noise = DrawnNoise(tiny_roberta(), MAT, BATCHES, seed=seed)
    found = {}
    for t, batch in enumerate(BATCHES):
        real = batch["attention_mask"].bool()
        found.update({("delta", seed, t, turn): numbers[real] for turn, (_, numbers) in enumerate(noise.draws(t))})
    return found


def parameters(seed):
    """(outer step, sample, parameter) -> its noise."""
    found = {}
    for t in range(3):
        sampler = StillSampler(SHAPES, samples=3, outer_step=t, seed=seed)
        found.update({("theta", seed, t, k, i): xi for k in range(3) for i, xi in enumerate(sampler.sample())})
    return found


@pytest.fixture(scope="module")
def drawn():
    both = [draw(seed) for seed in (0, 1) for draw in (perturbations, parameters)]
    return {what: numbers.double().flatten() for found in both for what, numbers in found.items()}


def test_perturbation_and_parameters_are_drawn_in_every_step_of_their_chains(drawn):
    deltas = {("delta", *rest) for rest in itertools.product((0, 1), range(3), range(1 + 3))}
    thetas = {("theta", *rest) for rest in itertools.product((0, 1), range(3), range(3), range(len(SHAPES)))}
    assert drawn.keys() == deltas | thetas


def test_every_draw_is_standard_normal(drawn):
    for what, x in drawn.items():
        n = len(x)
        assert n > 10_000
        # Five standard errors; the draws are fixed, so this does not fail by chance.
        assert abs(x.mean()) < 5 / n**0.5 and abs(x.square().mean() - 1) < 5 * (2 / n) ** 0.5, what
        below = (1 + torch.erf(x.sort().values / math.sqrt(2))) / 2
        assert (below - (torch.arange(n) + 0.5) / n).abs().max() < 2.2 / n**0.5, what


def test_draws_of_other_steps_samples_tensors_players_and_seeds_are_uncorrelated(drawn):
    names = list(drawn)
    for powers in (1, 2):
        by_name = torch.stack([x[:10_000] ** powers for x in drawn.values()])
        related = torch.corrcoef(by_name).fill_diagonal_(0.0).abs()
        worst = divmod(int(related.argmax()), len(names))
        assert related.max() < 5.5 / 10_000**0.5, [names[i] for i in worst]


def test_a_repeated_draw_gives_the_same_numbers(drawn):
    again = {**perturbations(0), **parameters(0)}
    assert all(torch.equal(numbers.double().flatten(), drawn[what]) for what, numbers in again.items())


@pytest.mark.parametrize(
    "name, law",
    [
        ("mat", philox.normal),
        ("smart", philox.normal),
        ("alum", philox.normal),
        ("salt", philox.normal),
        ("freelb", philox.uniform),
        ("pgd", philox.uniform),
        ("freeat", philox.uniform),
        ("r3f", philox.uniform),
        ("neftune", philox.uniform),
    ],
)
def test_micro_batches_draw_what_the_whole_batch_draws_from_the_papers_distribution(name, law):
    method = METHODS[name]
    player = method(method.Settings(), CLASSIFICATION)

    def rows(micro):
        """For each draw and example, the numbers of its real tokens."""
        found = []
        for batch in micro_batches(BATCHES[0], micro):
            recorder = Recorder(tiny_roberta())
            player.adversary(recorder, batch)
            assert {found for found, _ in recorder.draws} == {law}
            found += zip(
                *([row[m.bool()] for row, m in zip(x, batch.inputs["attention_mask"], strict=True)] for _, x in recorder.draws),
                strict=True,
            )
        return found

    whole, parts = rows(64), rows(16)
    assert len(whole) == len(parts) == 64
    for one, other in zip(whole, parts, strict=True):
        assert len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
