"""One update of the parameters by the sampler, against torch's fused AdamW on the same flat shard."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.speed.shapes import parameter_shapes
from benchmarks.speed.timing import Figure, alternate, ratio
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.noise_kernel import own_kernel
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.slices import Slice, places
from mat_ds.sampling.step_kernel import own_step

SAMPLES, ROUNDS = 5, 7
ADAM = {"lr": 1e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def shard(shapes: list[torch.Size], device: torch.device) -> tuple[list[Tensor], dict[Tensor, list[Slice]]]:
    """Flat masters with gradients as on the only rank of ZeRO-1, one for matrices and one for vectors, and their slices."""
    masters, slices, first = [], {}, places(shapes)
    for is_matrix in (True, False):
        own = [(index, shape.numel()) for index, shape in enumerate(shapes) if (len(shape) > 1) is is_matrix]
        master = torch.randn(sum(numel for _, numel in own), device=device).mul_(0.05).requires_grad_()
        master.grad = torch.randn_like(master).mul_(1e-3)
        slices[master], start = [], 0
        for index, numel in own:
            slices[master].append(Slice(index, numel, 0, start, numel, first[index]))
            start += numel
        masters.append(master)
    return masters, slices


def ours(shapes: list[torch.Size], device: torch.device, noise: float) -> Callable[[], None]:
    """The updates of one outer step."""
    masters, slices = shard(shapes, device)
    sampler = Sampler([{"params": [master], **ADAM} for master in masters], "adam", Chain(SAMPLES, 0.3, 0.3, noise), seed=0)
    sampler.arm(slices, device, own_kernel(device) if noise else None, at_once=own_step(device))
    step = iter(range(1 << 30))

    def outer_step() -> None:
        sampler.begin(next(step), ADAM["lr"])
        for _ in range(SAMPLES):
            sampler.step()

    return outer_step


def fused(shapes: list[torch.Size], device: torch.device) -> Callable[[], None]:
    """As many updates by torch's fused AdamW."""
    masters, _ = shard(shapes, device)
    optimizer = torch.optim.AdamW(masters, fused=True, **ADAM)

    def updates() -> None:
        for _ in range(SAMPLES):
            optimizer.step()

    return updates


def measure(noise: float, model: Path | None) -> Figure:
    """The cost of an update by the sampler in fused AdamW updates, with the mixture's start and end."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes = parameter_shapes(model)
    cases = {"ours": ours(shapes, device, noise), "fused_adamw": fused(shapes, device)}
    found = ratio(alternate(cases, ROUNDS), "ours", "fused_adamw")
    found.details["elements"] = sum(shape.numel() for shape in shapes)
    found.details["updates_a_round"] = SAMPLES
    return found
