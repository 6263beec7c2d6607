"""On a GPU: random draws equal those of a CPU, and a warning if TF32 would hide the perturbation."""

import pytest
import torch

from mat_ds.sampling import philox
from mat_ds.sampling.noise_kernel import add_by_place, own_kernel
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


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="this card has no TF32")
def test_tf32_that_hides_the_radius_gives_a_warning():
    options = ("--ds_config", "ds_configs/zero2.json", "method.delta_max_norm=1e-5", "method.delta_lr=1e-3", "--dry_run")
    for override, warned in (("1", True), ("0", False)):
        done = run_cli(*options, ranks=1, device="cuda", NVIDIA_TF32_OVERRIDE=override)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("matrix products resolve 2^-11" in done.stdout + done.stderr) == warned
