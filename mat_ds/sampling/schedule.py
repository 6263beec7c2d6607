"""Step size schedules of transformers, without the seconds that importing its trainer takes."""

from __future__ import annotations

import math
from collections.abc import Callable

from mat_ds.sampling.options import OptimizerConfig

# Factor of the peak step size, by the fraction of the way from the end of warm-up to the end of training.
DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


def learning_rate(optimizer: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """lr(t) for outer steps t = 0 .. total_steps - 1; with a warm-up, lr(0) is 0.

    Args:
        optimizer: peak step size, schedule and warm-up ratio.
        total_steps: T, outer steps of the whole run.
    """
    warmup, peak = math.ceil(optimizer.warmup_ratio * total_steps), optimizer.lr

    def at(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        done = (step - warmup) / max(1, total_steps - warmup)
        return peak * DECAYS[optimizer.schedule](done)

    return at
