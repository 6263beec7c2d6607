"""The sampler against torch's optimizers, and against the two moving averages that it keeps in one buffer."""

import copy
import math

import pytest
import torch

from mat_ds.sampling.average import Average
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice
from mat_ds.sampling.updates import adam_

CPU = torch.device("cpu")
TORCH = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.0, alpha=0.9, eps=1e-6),
    "adam": lambda groups: torch.optim.AdamW(groups, lr=0.0, betas=(0.8, 0.99), eps=1e-6),
}


def make(update="sgd", chain=None, numel=10, weight_decay=0.0, seed=0, start=0):
    """A sampler of one parameter that lies at `start` of a longer master tensor full of NaN."""
    torch.manual_seed(0)
    master = torch.full((numel + 2 * start,), math.nan, requires_grad=True)
    with torch.no_grad():
        master[start : start + numel] = torch.randn(numel)
    groups = [{"params": [master], "betas": (0.8, 0.99), "alpha": 0.9, "eps": 1e-6, "weight_decay": weight_decay}]
    sampler = Sampler(groups, update, chain or Chain(), seed)
    sampler.arm({master: [Slice(0, numel, 0, start, numel, 0)]}, CPU)
    return sampler, master


def give_gradient(master, step):
    master.grad = torch.randn(master.shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("update", ["sgd", "rmsprop", "adam"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_averaging_it_equals_torchs_optimizer(update, weight_decay):
    sampler, master = make(update, weight_decay=weight_decay)
    mirror = master.detach().clone().requires_grad_()
    optimizer = TORCH[update]([{"params": [mirror], "weight_decay": weight_decay}])
    for step in range(6):
        lr = 0.1 / (step + 1)
        sampler.begin(step, lr)
        optimizer.param_groups[0]["lr"] = lr
        give_gradient(master, step)
        mirror.grad = master.grad.clone()
        sampler.step()
        optimizer.step()
    torch.testing.assert_close(master, mirror, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("update", ["sgd", "rmsprop", "adam"])
def test_a_void_step_and_all_later_ones_change_nothing(update):
    chain = Chain(samples=3, beta_s=0.3, beta_p=0.3, noise=0.1, averages={"average": Average(0.5)})
    sampler, master = make(update, chain, weight_decay=0.1)
    sampler.begin(0, 0.1)
    give_gradient(master, 0)
    sampler.step()
    held = {name: value.clone() for name, value in {"theta": master.detach(), **sampler.kept(master)}.items()}
    assert sampler.finite()
    sampler.void.fill_(1)
    for _ in range(2):
        master.grad = torch.full_like(master, math.nan)
        sampler.step()
    assert not sampler.finite()
    assert all(torch.equal(value, held[name]) for name, value in {"theta": master, **sampler.kept(master)}.items())


def test_rmsprop_has_torchs_defaults_and_ignores_adams_options():
    options = OptimizerConfig(name="rmsprop", betas=(0.5, 0.6))
    assert options.rmsprop_alpha == torch.optim.RMSprop([torch.zeros(1)]).defaults["alpha"]
    ours, theirs = (torch.ones(4, requires_grad=True) for _ in range(2))
    group = {"params": [ours], "alpha": options.rmsprop_alpha, "betas": options.betas, "eps": options.eps}
    sampler = Sampler([group], "rmsprop", Chain(), 0)
    sampler.arm({ours: [Slice(0, 4, 0, 0, 4, 0)]}, CPU)
    optimizer = torch.optim.RMSprop([theirs], lr=1e-3)
    for step in range(20):
        sampler.begin(step, 1e-3)
        give_gradient(ours, step)
        theirs.grad = ours.grad.clone()
        sampler.step()
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def adam_by_the_paper(theta, gradients, lr, betas, eps, weight_decay):
    """Loshchilov and Hutter 2019, algorithm 2, in fp64."""
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    for count, gradient in enumerate(gradients, 1):
        m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
        root = (v / (1 - betas[1] ** count)).sqrt() + eps
        theta = theta - lr * weight_decay * theta - lr * m / (1 - betas[0] ** count) / root
    return theta, m, v


@pytest.mark.parametrize("numel", [1, 7, 1003, 4096])
def test_adam_in_one_pass_equals_the_papers_algorithm(numel):
    group = {"lr": 1e-2, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    theta, m, v = torch.randn(numel, generator=torch.Generator().manual_seed(1)), torch.zeros(numel), torch.zeros(numel)
    gradients = [10.0**-k * torch.randn(numel, generator=torch.Generator().manual_seed(k)) for k in (2, 3, 4, 5, 6)]
    expected = adam_by_the_paper(theta.double(), [gradient.double() for gradient in gradients], **group)
    for count, gradient in enumerate(gradients, 1):
        adam_(theta, gradient, group, count, torch.zeros(()), m, v)
    for found, wanted in zip((theta, m, v), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=3e-7 * float(wanted.abs().max()))


@pytest.mark.parametrize("anchor", ["start", "first_update"])
@pytest.mark.parametrize("beta_s, beta_p, samples", [(0.3, 0.3, 5), (0.9, 0.1, 3), (0.0, 0.5, 2), (0.7, 0.0, 4)])
def test_one_buffer_holds_both_moving_averages_of_algorithm_2(anchor, beta_s, beta_p, samples):
    sampler, master = make(chain=Chain(samples, beta_s, beta_p, anchor=anchor))
    for t in range(3):
        sampler.begin(t, 0.1)
        theta = master.detach().clone()
        theta_t, average = theta.clone(), theta.clone()
        for k in range(samples):
            give_gradient(master, 10 * t + k)
            theta = theta - 0.1 * master.grad
            if k == 0 and anchor == "first_update":
                theta_t, average = theta.clone(), theta.clone()
            average = beta_s * average + (1 - beta_s) * theta
            sampler.step()
        torch.testing.assert_close(master.detach(), beta_p * theta_t + (1 - beta_p) * average)


def test_the_weights_of_a_mixture_sum_to_one():
    for chain in (Chain(1), Chain(10, 0.3, 0.3), Chain(30, 0.9, 0.1), Chain(3, 0.0, 0.0)):
        assert sum(chain.coefficients) == pytest.approx(1.0, abs=1e-12)


def test_only_averaging_needs_a_buffer():
    assert not Chain(samples=5).is_mixed and not Chain().is_mixed
    assert Chain(samples=2, beta_s=0.3).is_mixed and Chain(samples=1, beta_p=0.3).is_mixed
    plain, mixed = make("sgd")[0], make("sgd", Chain(2, 0.3, 0.3))[0]
    assert plain.state_bytes == 0 and mixed.state_bytes == 4 * 10


@pytest.mark.parametrize("update", ["sgd", "rmsprop", "adam"])
def test_padding_is_neither_read_nor_written(update):
    chain = Chain(3, 0.3, 0.3, noise=1e-2)
    padded, master = make(update, chain, weight_decay=0.1, start=3)
    clean, mirror = make(update, chain, weight_decay=0.1)
    for t in range(2):
        for sampler in (padded, clean):
            sampler.begin(t, 0.1)
        for k in range(3):
            give_gradient(mirror, 10 * t + k)
            master.grad = torch.full_like(master, math.nan)
            master.grad[3:-3] = mirror.grad
            padded.step()
            clean.step()
    assert torch.equal(master[3:-3], mirror)
    assert master[:3].isnan().all() and master[-3:].isnan().all()


def test_it_changes_nothing_until_armed():
    master = torch.ones(4, requires_grad=True)
    sampler = Sampler([{"params": [master], "lr": 1.0}], "adam", Chain(2, 0.3, 0.3, noise=1.0), seed=0)
    master.grad = torch.ones(4)
    sampler.step()
    assert torch.equal(master.detach(), torch.ones(4)) and not sampler.state


def test_a_missing_gradient_is_a_zero_gradient():
    sampler, master = make("adam", weight_decay=0.1)
    before = master.detach().clone()
    sampler.begin(0, 0.1)
    sampler.step()
    torch.testing.assert_close(master.detach(), before * (1 - 0.1 * 0.1))


def test_noise_has_the_langevin_scale_and_does_not_depend_on_the_cut():
    numel, lr, epsilon = 200_000, 1e-2, 0.5
    whole, master = make(chain=Chain(noise=epsilon), numel=numel, seed=3)
    before = master.detach().clone()
    master.grad = torch.zeros_like(master)
    whole.begin(4, lr)
    whole.step()
    noise = master.detach() - before
    assert noise.std().item() == pytest.approx(math.sqrt(2 * lr) * epsilon, rel=0.01)

    halves = [before[: numel // 3].clone().requires_grad_(), before[numel // 3 :].clone().requires_grad_()]
    sharded = Sampler([{"params": halves}], "sgd", Chain(noise=epsilon), seed=3)
    first, second = Slice(0, numel, 0, 0, numel // 3, 0), Slice(0, numel, numel // 3, 0, numel - numel // 3, 0)
    sharded.arm({halves[0]: [first], halves[1]: [second]}, CPU)
    sharded.begin(4, lr)
    sharded.step()
    assert torch.equal(torch.cat([half.detach() for half in halves]), master.detach())


def test_noise_vanishes_with_the_step_size():
    sampler, master = make(chain=Chain(noise=1.0))
    before = master.detach().clone()
    sampler.begin(0, 0.0)
    give_gradient(master, 0)
    sampler.step()
    assert torch.equal(master.detach(), before)


def test_its_state_survives_saving_and_loading():
    chain = Chain(2, 0.3, 0.3, noise=1e-3)
    sampler, master = make("adam", chain)

    def outer(sampler, master, t):
        sampler.begin(t, 0.1)
        for k in range(2):
            give_gradient(master, 10 * t + k)
            sampler.step()

    outer(sampler, master, 0)
    saved, theta = copy.deepcopy(sampler.state_dict()), master.detach().clone()
    outer(sampler, master, 1)

    resumed, copy_of_master = make("adam", chain)
    with torch.no_grad():
        copy_of_master.copy_(theta)
    resumed.load_state_dict(saved)
    outer(resumed, copy_of_master, 1)
    assert torch.equal(copy_of_master, master)
