"""Step size schedules as transformers has them, without the seconds that importing its trainer takes."""

from __future__ import annotations

import math
from collections.abc import Callable

from mat_ds.sampling.cycles import Cycles
from mat_ds.sampling.options import OptimizerConfig, SamplingConfig

# What is left of the way from the peak step size to the last one, by the fraction of the decay that is done.
DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
    "warmup_stable_decay": lambda done: 1 - done,
}


def cycles_of(optimizer: OptimizerConfig, sampling: SamplingConfig, total_steps: int) -> Cycles:
    """The cycles of a run; one if `sampling.cycles` asks for none."""
    return Cycles(math.ceil(optimizer.warmup_ratio * total_steps), total_steps, sampling.cycles or 1, sampling.explore)


def learning_rate(optimizer: OptimizerConfig, total_steps: int, cycles: Cycles | None = None) -> Callable[[int], float]:
    """lr(t) for outer steps t = 0 .. total_steps - 1; with a warm-up, lr(0) is 0.

    With W steps of warm-up, D steps of decay (all that are left, but for `warmup_stable_decay`: Hu et al. 2024, section 4; its
    linear decay: Haegele et al. 2024) and a last step size of m lr:
        lr(t) = lr t / W for t < W, lr until T - D, and then lr (m + (1 - m) f((t - (T - D)) / D)).

    Args:
        optimizer: peak step size, schedule, its last step size, and the ratios of warm-up and decay.
        total_steps: T, outer steps of the whole run.
        cycles: in place of the schedule, where a step size falls to m lr along half a cosine in each of them.
    """
    warmup, peak, least = math.ceil(optimizer.warmup_ratio * total_steps), optimizer.lr, optimizer.min_lr_ratio
    begin = warmup
    if optimizer.schedule == "warmup_stable_decay":
        begin = max(warmup, total_steps - math.ceil(optimizer.decay_ratio * total_steps))

    def at(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        if cycles:
            return peak * (least + (1 - least) * DECAYS["cosine"](cycles.place(step)))
        if step < begin:
            return peak
        done = (step - begin) / max(1, total_steps - begin)
        return peak * (least + (1 - least) * DECAYS[optimizer.schedule](done))

    return at
