"""Slices with step sizes of their own are torch's parameter groups, in drift and in noise."""

import math

import pytest
import torch

from mat_ds.sampling.chain import Chain
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice

TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.0, alpha=0.9, eps=1e-6),
    "adam": lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=(0.8, 0.99), eps=1e-6),
}


def make(update, chain, rates, weight_decay=0.1):
    """A sampler of two parameters that lie side by side in a master tensor, between padding."""
    torch.manual_seed(0)
    master = torch.full((20,), math.nan, requires_grad=True)
    with torch.no_grad():
        master[2:14] = torch.randn(12)
    groups = [{"params": [master], "betas": (0.8, 0.99), "alpha": 0.9, "eps": 1e-6, "weight_decay": weight_decay}]
    sampler = Sampler(groups, update, chain, 0)
    slices = [Slice(0, 7, 0, 2, 7, 0, rates[0]), Slice(1, 5, 0, 9, 5, 7, rates[1])]
    sampler.arm({master: slices}, torch.device("cpu"))
    return sampler, master


@pytest.mark.parametrize("update", ["sgd", "rmsprop", "adam"])
def test_slices_with_rates_move_as_torchs_parameter_groups(update):
    rates = (0.25, 3.0)
    sampler, master = make(update, Chain(), rates)
    mirrors = [master.detach()[here].clone().requires_grad_() for here in (slice(2, 9), slice(9, 14))]
    optimizer = TORCH[update]([{"params": [mirror], "weight_decay": 0.1} for mirror in mirrors])
    for step in range(6):
        lr = 0.1 / (step + 1)
        sampler.begin(step, lr)
        master.grad = torch.randn(master.shape, generator=torch.Generator().manual_seed(step))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * lr
        mirrors[0].grad, mirrors[1].grad = master.grad[2:9].clone(), master.grad[9:14].clone()
        sampler.step()
        optimizer.step()
    moved = torch.cat([mirror.detach() for mirror in mirrors])
    torch.testing.assert_close(master.detach()[2:14], moved, rtol=1e-5, atol=1e-6)
    assert master[:2].isnan().all() and master[14:].isnan().all()


def test_the_noise_of_a_slice_follows_its_own_step_size_and_has_the_same_numbers():
    moved = []
    for rates in ((1.0, 1.0), (0.25, 4.0)):
        sampler, master = make("sgd", Chain(noise=0.5), rates, weight_decay=0.0)
        before = master.detach().clone()
        sampler.begin(3, 1e-2, watch=True)
        master.grad = torch.zeros_like(master)
        sampler.step()
        moved.append((master.detach() - before)[2:14])
        assert sampler.watched.noises[0] == pytest.approx(float(moved[-1].double().square().sum()), rel=1e-5)
    torch.testing.assert_close(moved[1][:7], 0.5 * moved[0][:7], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moved[1][7:], 2.0 * moved[0][7:], rtol=1e-5, atol=1e-7)
