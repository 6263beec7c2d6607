"""On a GPU: random draws equal those of a CPU, and a warning if TF32 would hide the perturbation."""

import pytest
import torch

from mat_ds.sampling import philox
from tests.support.launch import run_cli

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]


@pytest.mark.parametrize("width", [5, 384])
def test_draws_equal_those_of_a_cpu(width):
    examples, tokens = torch.tensor([3, 2**40, 0]), torch.arange(33).expand(3, 33)
    for draw, bound in ((philox.uniform, 0.0), (philox.normal, 2e-6)):
        here = draw(12345, examples, tokens, width)
        there = draw(12345, examples.cuda(), tokens.cuda(), width).cpu()
        assert (here - there).abs().max() <= bound


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="this card has no TF32")
def test_tf32_that_hides_the_radius_gives_a_warning():
    options = ("--ds_config", "ds_configs/zero2.json", "method.delta_max_norm=1e-5", "method.delta_lr=1e-3", "--dry_run")
    for override, warned in (("1", True), ("0", False)):
        done = run_cli(*options, ranks=1, device="cuda", NVIDIA_TF32_OVERRIDE=override)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("matrix products resolve 2^-11" in done.stdout + done.stderr) == warned
