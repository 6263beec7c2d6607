"""The step size over outer steps: transformers' own schedules, as plain functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from transformers import get_scheduler

from mat_ds.config.schema import OptimizerConfig


def learning_rate(optimizer: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """lr(t) for outer steps t = 0 .. total_steps - 1; with a warm-up the first is 0.

    Args:
        optimizer: peak step size, schedule and warm-up ratio.
        total_steps: T, outer steps of the whole run.
    """
    name = "constant_with_warmup" if optimizer.schedule == "constant" else optimizer.schedule
    # transformers attaches a schedule to an optimizer; only its function of the step is wanted.
    stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=optimizer.lr or 1.0)
    warmup = math.ceil(optimizer.warmup_ratio * total_steps)
    factor = get_scheduler(name, stand_in, num_warmup_steps=warmup, num_training_steps=total_steps).lr_lambdas[0]
    return lambda step: optimizer.lr * float(factor(step))
