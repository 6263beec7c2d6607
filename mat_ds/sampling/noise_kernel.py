"""Noise of the parameters: one kernel for a run of elements, in place of a generator for each 65,536 of them.

The kernel is written in Triton, which torch's builds for NVIDIA cards contain, and in C for CPUs that have a compiler. Its
numbers are those of `philox.normal_run`: they depend on key and place alone, so all cards draw the same, and all CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from mat_ds.sampling.philox import normal_run
from mat_ds.sampling.tried import logged, on_every_rank, tried

# What the kernel is tried on: a key and a place of more than 32 bits, and the numbers of two programs.
KEY, PLACE, NUMEL = 0x1234567890ABCDE, (1 << 34) + 5, 2000
TOLERANCE = 1e-5

# Elements that are drawn at a time for parameters in host memory.
OFFLOADED = 1 << 22

# theta (fp32, flat), scale, key, place, void: adds scale * (1 - void) * the numbers of the key from `place` on, in place.
Kernel = Callable[[Tensor, float, int, int, Tensor], None]


def agreed_kernel(device: torch.device) -> Kernel | None:
    """The kernel, if it works on every rank; None otherwise. Every rank must call it."""
    return on_every_rank(own_kernel, device)


@cache
def own_kernel(device: torch.device) -> Kernel | None:
    """The kernel, tried once; None, which the log then says, if it does not work here, or without Triton or a compiler."""
    return logged(try_noise(device), "the parameters' noise takes many small ones", device)


def try_noise(device: torch.device) -> tuple[Kernel | None, str]:
    """The kernel, tried against `philox.normal_run`, or the reason why there is none."""

    def load() -> Kernel:
        if device.type == "cpu":
            from mat_ds.sampling.cpu_kernels import add_numbers
        else:
            from mat_ds.sampling.triton_noise import add_numbers
        return add_numbers

    return tried(load, lambda kernel: works(kernel, device))


def works(kernel: Kernel, device: torch.device) -> bool:
    """Whether a kernel adds the numbers it should, and none once a step is void."""
    added, void = torch.zeros(NUMEL, device=device), torch.zeros((), device=device)
    kernel(added, 1.0, KEY, PLACE, void)
    kernel(added, 1.0, KEY + 1, PLACE, 1 - void)
    return bool((added - normal_run(KEY, PLACE, NUMEL, device)).abs().max() <= TOLERANCE)


def add_by_place(kernel: Kernel, theta: Tensor, scale: float, key: int, place: int, void: Tensor, device: torch.device) -> None:
    """Calls a kernel, which works on `device`, also if theta and void are in host memory."""
    if theta.device.type == device.type:
        kernel(theta, scale, key, place, void)
        return
    void = void.to(device)
    for first, part in zip(range(0, theta.numel(), OFFLOADED), theta.split(OFFLOADED), strict=True):
        numbers = torch.zeros(part.numel(), device=device)
        kernel(numbers, scale, key, place + first, void)
        part.add_(numbers.to(part.device))
