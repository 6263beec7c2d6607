"""Drift, noise and mixture of one of Adam's samples in one pass over memory, where plain torch takes three.

The kernel is written in Triton and in C, as that of `noise_kernel`, whose numbers it draws. It rounds after every operation, so
that a sample drawn in several passes, as one that is watched is, comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mat_ds.sampling import noise_kernel
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.step import Step
from mat_ds.sampling.tried import logged, on_every_rank, tried
from mat_ds.sampling.updates import adam_
from mat_ds.sampling.watched import Watched, squared_distance

# How far the kernel may be from plain torch, of numbers below 10.
TOLERANCE = 1e-5


# theta, gradient, exp_avg, exp_avg_sq and mixture (fp32, flat, of one length); void, as for `updates`; all in place.
Kernel = Callable[[dict[str, Tensor], Tensor, Step], None]


def agreed_step(device: torch.device, update: str, chain: Chain) -> Kernel | None:
    """The kernel, if it draws such samples in fewer passes than torch and works on every rank; None otherwise. Every rank
    must call it.

    Args:
        device: of the masters.
        update: a key of `updates.UPDATES`.
        chain: of the samples.
    """
    served = update == "adam" and not chain.ascent and not chain.preconditioned and (chain.noise or chain.is_mixed)
    return on_every_rank(own_step, device) if served else None


@cache
def own_step(device: torch.device) -> Kernel | None:
    """The kernel, tried once against plain torch; None if it does not work here, or without Triton or a compiler."""

    def load() -> Kernel:
        if device.type == "cpu":
            from mat_ds.sampling.cpu_kernels import advance
        else:
            from mat_ds.sampling.triton_step import advance
        return advance

    noise = noise_kernel.own_kernel(device)
    if noise is None:
        return None
    found = tried(load, lambda kernel: equals_torch(kernel, noise, device))
    return logged(found, "a sample takes several passes over memory", device)


def equals_torch(kernel: Kernel, noise: noise_kernel.Kernel, device: torch.device) -> bool:
    """Whether a kernel comes to what plain torch does, in a first and a last sample, and leaves a void one alone."""
    group: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}
    names = ("theta", "gradient", "exp_avg", "exp_avg_sq", "mixture")
    numbers = torch.arange(len(names) * noise_kernel.NUMEL, device=device).float().sin().view(len(names), -1).abs()
    ours, plain = (dict(zip(names, numbers.clone(), strict=True)) for _ in range(2))
    for count, void in ((1, 0.0), (2, 0.0), (3, 1.0)):
        stop, first, last = torch.full((), void, device=device), count == 1, count == 2
        step = replace(
            _step(group, count), scale=0.3, key=noise_kernel.KEY + count, place=noise_kernel.PLACE,
            mixed=True, start=int(first), anchor=0.4, weight=0.2, last=last,
        )  # fmt: skip
        kernel(ours, stop, step)
        if first:
            torch.mul(plain["theta"], 0.4, out=plain["mixture"])
        adam_(plain["theta"], plain["gradient"], group, count, stop, plain["exp_avg"], plain["exp_avg_sq"])
        noise(plain["theta"], 0.3, step.key, step.place, stop)
        plain["mixture"].add_(plain["theta"], alpha=0.2)
        if last:
            plain["theta"].copy_(plain["mixture"])
    return all(bool((ours[name] - plain[name]).abs().max() <= TOLERANCE) for name in names)


def draw_sample(
    kernel: Kernel, own: dict[str, Tensor], group: dict[str, Any], count: int, chain: Chain, sample: int,
    runs: Sequence[tuple[slice, int]], noise: tuple[float, int], void: Tensor, watched: Watched | None,
) -> None:  # fmt: skip
    """Draws a sample of one block, in one pass, or if it is watched in three.

    Args:
        kernel: of its device.
        own: the block's tensors, as for the kernel; with `start`, theta_t, if it is watched.
        group: options of Adam.
        count: as for `adam_`.
        chain: of the outer step.
        sample: number of the sample in it, from 1.
        runs: of the block, with their places.
        noise: its scale and its key.
        void: as for the kernel.
        watched: where its moves are noted.
    """
    first, last, mixed = sample == 1, sample == chain.samples, "mixture" in own
    whole = replace(
        _step(group, count), scale=noise[0], key=noise[1], mixed=mixed, anchor=chain.coefficients[0],
        weight=chain.coefficients[sample], start=(1 if chain.anchor == "start" else 2) * first, last=last,
    )  # fmt: skip
    for run, place in runs:
        here = {name: tensor[run] for name, tensor in own.items()}
        step = replace(whole, place=place)
        if watched is None:
            kernel(here, void, step)
            continue
        before = here["theta"].clone()
        kernel(here, void, replace(step, scale=0.0, weight=0.0, last=False))
        watched.drifts[sample - 1] += squared_distance(here["theta"], before)
        before.copy_(here["theta"])
        kernel(here, void, replace(step, drift=False, mixed=False))
        watched.noises[sample - 1] += squared_distance(here["theta"], before)
        watched.by_chain += squared_distance(here["theta"], here["start"]) if last else 0.0
        if mixed:
            kernel(here, void, replace(step, drift=False, scale=0.0, start=0))


def _step(group: dict[str, Any], count: int) -> Step:
    """The drift of Adam's update `count`, without noise and mixture."""
    beta_1, beta_2 = group["betas"]
    return Step(
        rate=group["lr"] / (1 - beta_1**count), decay=1 - group["lr"] * group["weight_decay"], beta_1=beta_1, beta_2=beta_2,
        root=(1 - beta_2**count) ** 0.5, eps=group["eps"], drift=True, scale=0.0, key=0, place=0, anchor=0.0, weight=0.0,
        mixed=False, start=0, last=False,
    )  # fmt: skip
