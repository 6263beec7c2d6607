"""At temperature 1 the sampler draws from the posterior: of Bayesian linear regression, whose mean and covariance are known."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch

from mat_ds.runs.options import RunConfig, combination_problems
from mat_ds.runs.steps import snapshot_points
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.cycles import Cycles
from mat_ds.sampling.options import OptimizerConfig, SamplingConfig
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.schedule import cycles_of, learning_rate
from mat_ds.sampling.slices import Slice

EXAMPLES, CHAINS, DECAY = 40, 2000, 0.05
# Scales of the three features: the posterior is narrow along the first and wide along the last.
SCALES = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)


def regression():
    """Design X (N, 3) and targets y (N,) with noise of variance 1."""
    source = torch.Generator().manual_seed(1)
    x = torch.randn(EXAMPLES, 3, generator=source, dtype=torch.float64) * SCALES
    return x, x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + torch.randn(EXAMPLES, generator=source).double()


def posterior(x, y, temperature, decay=DECAY):
    """Mean and covariance of exp(-U / T), U = |y - X w|^2 / 2 + N wd |w|^2 / 2: a Gaussian of precision X'X + N wd."""
    precision = x.T @ x + EXAMPLES * decay * torch.eye(3, dtype=torch.float64)
    return torch.linalg.solve(precision, x.T @ y), temperature * torch.linalg.inv(precision)


def sampled(update, chain, lr, steps, decay=DECAY, **group):
    """Mean and covariance of w over CHAINS chains after so many steps with the exact gradient of the mean loss."""
    x, y = regression()
    hessian, pull = (x.T @ x / EXAMPLES).float(), (x.T @ y / EXAMPLES).float()
    start = posterior(x, y, 1.0, decay)[0].float() if update != "sgd" else torch.zeros(3)
    master = start.repeat(CHAINS).requires_grad_()
    given = {"params": [master], "weight_decay": decay, "alpha": 0.999, "betas": (0.5, 0.999), "eps": 1e-3, **group}
    sampler = Sampler([given], update, chain, 0)
    sampler.arm({master: [Slice(0, CHAINS * 3, 0, 0, CHAINS * 3, 0)]}, torch.device("cpu"))
    for step in range(steps):
        sampler.begin(step, lr)
        master.grad = (master.detach().view(CHAINS, 3) @ hessian - pull).view(-1)
        sampler.step()
    found = master.detach().view(CHAINS, 3).double()
    return found.mean(0), found.T.cov()


def distance(found, expected):
    """Of covariances, the largest relative error along any direction."""
    root = torch.linalg.cholesky(expected)
    whitened = torch.linalg.solve(root, torch.linalg.solve(root, found).T)
    return float((torch.linalg.eigvalsh((whitened + whitened.T) / 2) - 1).abs().max())


# Tolerances: those of a covariance from 2000 chains (its extremes: 7%), of steps of finite size (1 + h lambda / 2: 2%) and, but
# for sgd, of a preconditioner that moves with the chain (Gamma is left out: 2 to 4%).
@pytest.mark.parametrize("update, temperature, lr, within", [
    ("sgd", 1.0, 0.005, 0.09), ("sgd", 0.25, 0.005, 0.09), ("rmsprop", 1.0, 0.003, 0.11), ("adam", 1.0, 0.003, 0.14),
])  # fmt: skip
def test_samples_have_mean_and_covariance_of_the_posterior(update, temperature, lr, within):
    chain = Chain(noise=7.0).at_temperature(temperature, EXAMPLES, None)
    decay = 0.0 if update == "adam" else DECAY
    mean, covariance = sampled(update, chain, lr, 1200, decay)
    expected_mean, expected = posterior(*regression(), temperature, decay)
    assert ((mean - expected_mean) / expected.diag().sqrt()).abs().max() < 0.1
    assert distance(covariance, expected) < within


def test_noise_that_is_not_preconditioned_like_the_drift_samples_something_else():
    chain = replace(Chain().at_temperature(1.0, EXAMPLES, None), preconditioned=False)
    assert distance(sampled("rmsprop", chain, 0.003, 1200)[1], posterior(*regression(), 1.0)[1]) > 0.5


def test_a_chain_without_temperature_is_left_as_it_is():
    chain = Chain(noise=0.1)
    assert chain.at_temperature(None, 10, ((0, 1),)) is chain
    assert not chain.at_temperature(0.0, 10, None).has_noise(3)


@pytest.mark.parametrize("total, count, warmup, least", [(120, 4, 0.0, 0.0), (101, 3, 0.1, 0.2), (7, 1, 0.3, 0.0)])
def test_the_step_size_falls_along_half_a_cosine_in_each_cycle(total, count, warmup, least):
    optimizer = OptimizerConfig(lr=2.0, warmup_ratio=warmup, min_lr_ratio=least)
    cycles = cycles_of(optimizer, SamplingConfig(cycles=count), total)
    rates = [learning_rate(optimizer, total, cycles)(step) for step in range(total)]
    first = math.ceil(warmup * total)
    assert rates[:first] == pytest.approx([2.0 * step / first for step in range(first)])
    for step in range(first, total):
        turns = Fraction((step - first) * count, total - first)
        share = float(turns - turns.numerator // turns.denominator)
        assert rates[step] == pytest.approx(2.0 * (least + (1 - least) * (1 + math.cos(math.pi * share)) / 2))
    assert sum(later > rate for rate, later in pairwise(rates[first:])) == count - 1


def test_a_cycle_explores_before_it_samples():
    """With neither gradient nor decay only noise moves anything."""
    stages = Cycles(first=2, total=22, count=2, explore=0.7).stages
    assert stages == ((9, 12), (19, 22))
    master = torch.zeros(4, requires_grad=True)
    sampler = Sampler([{"params": [master]}], "sgd", Chain().at_temperature(1.0, 10, stages), 0)
    sampler.arm({master: [Slice(0, 4, 0, 0, 4, 0)]}, torch.device("cpu"))
    moved = []
    for step in range(22):
        before = master.detach().clone()
        sampler.begin(step, 0.1)
        sampler.step()
        moved.append(not torch.equal(before, master))
    assert [step for step, did in enumerate(moved) if did] == [9, 10, 11, 19, 20, 21]


def test_snapshots_of_cycles_are_those_of_their_samples():
    run = {"train": {"snapshots": 4}, "sampling": {"temperature": 1.0, "cycles": 2, "explore": 0.6},
           "optimizer": {"warmup_ratio": 0.0}}  # fmt: skip
    assert snapshot_points(RunConfig.model_validate(run), 40) == [16, 20, 36, 40]


AT_ONE, HOT = {"sampling": {"temperature": 1.0}}, "sampling.temperature"


@pytest.mark.parametrize("options, key, told", [
    (AT_ONE, HOT, "no prior"),
    ({**AT_ONE, "optimizer": {"name": "rmsprop", "max_grad_norm": 1.0}}, HOT, "clipped"),
    ({**AT_ONE, "optimizer": {"name": "sgd"}, "method": {"name": "mat"}}, HOT, "averages"),
    ({**AT_ONE, "optimizer": {"name": "sgd"}, "method": {"name": "sam"}}, HOT, "beside"),
    ({"sampling": {"explore": 0.5}}, "sampling.explore", "there is none"),
    ({"sampling": {"cycles": 2}, "optimizer": {"schedule": "constant"}}, "sampling.cycles", "both say"),
    ({"sampling": {"cycles": 2}, "train": {"snapshots": 3}}, "train.snapshots", "evenly"),
])  # fmt: skip
def test_what_would_not_sample_a_posterior_is_refused(options, key, told):
    run = RunConfig.model_validate({"method": {"name": "vanilla"}, **options})
    found = [problem for problem in combination_problems(run, 1) if problem.key == key]
    assert len(found) == 1 and told in found[0].reason


def test_a_chain_of_the_right_kind_is_accepted():
    run = {"method": {"name": "mat", "beta_s": 0.0, "beta_p": 0.0}, "optimizer": {"name": "rmsprop"},
           "sampling": {"temperature": 1.0, "cycles": 2, "explore": 0.8}, "train": {"snapshots": 4}}  # fmt: skip
    assert not [*combination_problems(RunConfig.model_validate(run), 1)]
