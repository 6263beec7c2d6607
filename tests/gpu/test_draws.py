"""On a GPU: random draws equal those of a CPU, a sample in one pass, and a warning if TF32 would hide the perturbation."""

import pytest
import torch

from mat_ds.sampling import philox
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.noise_kernel import add_by_place, own_kernel
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice
from mat_ds.sampling.step_kernel import own_step
from tests.support.launch import run_cli

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]


@pytest.mark.parametrize("width", [5, 384])
def test_draws_equal_those_of_a_cpu(width):
    examples, tokens = torch.tensor([3, 2**40, 0]), torch.arange(33).expand(3, 33)
    for draw, bound in ((philox.uniform, 0.0), (philox.normal, 2e-6)):
        here = draw(12345, examples, tokens, width)
        there = draw(12345, examples.cuda(), tokens.cuda(), width).cpu()
        assert (here - there).abs().max() <= bound


def test_one_kernel_draws_the_parameters_noise_and_its_numbers_are_those_of_a_cpu():
    kernel, device, void = own_kernel(torch.device("cuda")), torch.device("cuda"), torch.zeros(())
    assert kernel, "Triton's kernel does not work on this card; each 65,536 numbers take a generator of their own"
    for place, numel in ((0, 1), (3, 1_000_003), (2**40 + 2, 4096)):
        expected = philox.normal_run(12345, place, numel, torch.device("cpu"))
        on_card, offloaded = torch.zeros(numel, device=device), torch.zeros(numel)
        kernel(on_card, 0.5, 12345, place, void.to(device))
        add_by_place(kernel, offloaded, 0.5, 12345, place, void, device)
        assert (on_card.cpu() - 0.5 * expected).abs().max() < 1e-5
        assert torch.equal(on_card.cpu(), offloaded)


def ends(chain, at_once, watch):
    """Masters, moments and moves after two outer steps of a million elements."""
    device, numel = torch.device("cuda"), 1_000_003
    numbers = torch.arange(numel, device=device).float()
    master = numbers.sin().requires_grad_()
    sampler = Sampler([{"params": [master], "weight_decay": 0.1}], "adam", chain, seed=3)
    sampler.arm({master: [Slice(0, numel, 0, 0, numel, 3)]}, device, own_kernel(device), at_once=at_once)
    for step in range(2):
        sampler.begin(step, 1e-3, watch=watch)
        for sample in range(chain.samples):
            master.grad = (numbers * (1 + sample + 7 * step)).cos()
            sampler.step()
    moves = sampler.watched and [*sampler.watched.drifts, *sampler.watched.noises, *sampler.watched.moved]
    return torch.stack([master.detach(), *sampler.kept(master).values()]), moves


@pytest.mark.parametrize("chain", [Chain(3, 0.3, 0.4, 0.2), Chain(2, 0.3, 0.4, 0.2, "first_update"), Chain(2, 0.5, 0.5)])
def test_a_sample_in_one_pass_is_that_of_plain_torch_watched_or_not(chain):
    kernel = own_step(torch.device("cuda"))
    assert kernel, "Triton's kernel of a sample does not work on this card; it takes several passes over memory"
    (plain, moved), (watched, noted) = (ends(chain, at_once, True) for at_once in (None, kernel))
    assert (watched - plain).abs().max() < 1e-5
    assert noted == pytest.approx(moved, rel=1e-4)
    assert torch.equal(ends(chain, kernel, False)[0], watched)


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="this card has no TF32")
def test_tf32_that_hides_the_radius_gives_a_warning():
    options = ("--ds_config", "ds_configs/zero2.json", "method.delta_max_norm=1e-5", "method.delta_lr=1e-3", "--dry_run")
    for override, warned in (("1", True), ("0", False)):
        done = run_cli(*options, ranks=1, device="cuda", NVIDIA_TF32_OVERRIDE=override)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("matrix products resolve 2^-11" in done.stdout + done.stderr) == warned
