"""Kernels are tried when a run starts: used where they are right on every rank, and left out elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from mat_ds.ranks.collectives import any_rank

logger = logging.getLogger(__name__)
Kernel = TypeVar("Kernel", bound=Callable[..., None])


def tried(load: Callable[[], Kernel], works: Callable[[Kernel], bool], without: str, device: torch.device) -> Kernel | None:
    """A kernel that works; None, with a message in the log, if this one does not.

    Args:
        load: imports it, which needs Triton on a GPU, and on a CPU a compiler.
        works: whether its results are right.
        without: what happens without it.
        device: it is for.
    """
    name, level = ("The kernel in C", logging.INFO) if device.type == "cpu" else ("Triton's kernel", logging.WARNING)
    try:
        if works(kernel := load()):
            return kernel
        reason, level = "its results are wrong", logging.WARNING
    except Exception as error:  # Triton's errors have no common class: no C compiler, an old card, another driver
        reason = f"{type(error).__name__}: {error}"
    logger.log(level, "%s does not work here, so %s: %s", name, without, reason)
    return None


def on_every_rank(own: Callable[[torch.device], Kernel | None], device: torch.device) -> Kernel | None:
    """The kernel, if it works on every rank; None otherwise, and on other devices. Every rank must
    call it.

    Were ranks to compute differently, the replicas of ZeRO-0 would drift apart.
    """
    if device.type not in ("cpu", "cuda"):
        return None
    kernel = own(device)
    return None if any_rank(kernel is None, device) else kernel
