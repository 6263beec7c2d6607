"""The drift of one Langevin step, like torch's own optimizers, in place on one flat fp32 tensor.

Each function takes the parameter `theta`, its gradient and its moments, all of shape (numel,), and `void`, a number on their
device: if it is 1 instead of 0, theta and moments are left as they are. So the host need not wait to know whether a gradient is
finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

MOMENTS = {"sgd": (), "rmsprop": ("exp_avg_sq",), "adam": ("exp_avg", "exp_avg_sq")}


def sgd_(theta: Tensor, gradient: Tensor, group: dict[str, Any], count: int, void: Tensor) -> None:
    """`torch.optim.SGD`: theta -= lr (g + wd theta)."""
    skipped = void.bool()
    theta.mul_(torch.where(skipped, 1.0, 1 - group["lr"] * group["weight_decay"]))
    theta.add_(gradient.masked_fill_(skipped, 0.0), alpha=-group["lr"])


def rmsprop_(theta: Tensor, gradient: Tensor, group: dict[str, Any], count: int, void: Tensor, exp_avg_sq: Tensor) -> None:
    """`torch.optim.RMSprop`: no bias correction, no momentum, weight decay in the gradient."""
    if group["weight_decay"]:
        gradient = gradient.add(theta, alpha=group["weight_decay"])
    skipped, alpha = void.bool(), group["alpha"]
    gradient.masked_fill_(skipped, 0.0)
    exp_avg_sq.mul_(torch.where(skipped, 1.0, alpha)).addcmul_(gradient, gradient, value=1 - alpha)
    theta.addcdiv_(gradient, exp_avg_sq.sqrt().add_(group["eps"]), value=-group["lr"])


def adam_(
    theta: Tensor, gradient: Tensor, group: dict[str, Any], count: int, void: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor
) -> None:
    """`torch.optim.AdamW`: bias-corrected moments, eps outside the root, decoupled weight decay; in one pass over memory.

    Args:
        count: number of this update, counted from 1 over the whole run.
    """
    beta_1, beta_2 = group["betas"]
    torch._fused_adamw_(
        [theta], [gradient], [exp_avg], [exp_avg_sq], [], [torch.full((), float(count), device=theta.device)],
        lr=group["lr"], beta1=beta_1, beta2=beta_2, weight_decay=group["weight_decay"], eps=group["eps"],
        amsgrad=False, maximize=False, found_inf=void,
    )  # fmt: skip


UPDATES: dict[str, Callable[..., None]] = {"sgd": sgd_, "rmsprop": rmsprop_, "adam": adam_}


def preconditioner(update: str, group: dict[str, Any], count: int, moments: Mapping[str, Tensor]) -> Tensor | None:
    """P of an update theta -= lr P g, entry by entry, after it; None for 1. Adam's g is its running mean.

    Args:
        update: a key of `UPDATES`.
        group, count: as for the update.
        moments: after the update.
    """
    if update == "sgd":
        return None
    corrected = 1.0 if update == "rmsprop" else 1 - group["betas"][1] ** count
    return 1 / ((moments["exp_avg_sq"] / corrected).sqrt_() + group["eps"])
