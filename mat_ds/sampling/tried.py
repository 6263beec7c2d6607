"""Kernels are tried when a run starts: used where they are right on every rank, and left out elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from mat_ds.ranks.collectives import any_rank

logger = logging.getLogger(__name__)
WRONG = "its results are wrong"
Kernel = TypeVar("Kernel", bound=Callable[..., None])


def tried(load: Callable[[], Kernel], works: Callable[[Kernel], bool]) -> tuple[Kernel | None, str]:
    """A kernel that works, or the reason why this one does not.

    Args:
        load: imports it, which needs Triton on a GPU, and on a CPU a compiler.
        works: whether its results are right.
    """
    try:
        kernel = load()
        return (kernel, "") if works(kernel) else (None, WRONG)
    except Exception as error:  # Triton's errors have no common class: no C compiler, an old card, another driver
        return None, f"{type(error).__name__}: {error}"


def logged(found: tuple[Kernel | None, str], without: str, device: torch.device) -> Kernel | None:
    """The kernel that was tried, with a message in the log if there is none.

    Args:
        found: what `tried` returned.
        without: what happens without it.
        device: it is for.
    """
    kernel, reason = found
    if kernel is None:
        level = logging.INFO if device.type == "cpu" and reason != WRONG else logging.WARNING
        logger.log(level, "%s does not work here, so %s: %s", written_in(device), without, reason)
    return kernel


def written_in(device: torch.device) -> str:
    """What to call the kernels of a device."""
    return "the kernel in C" if device.type == "cpu" else "Triton's kernel"


def on_every_rank(own: Callable[[torch.device], Kernel | None], device: torch.device) -> Kernel | None:
    """The kernel, if it works on every rank; None otherwise, and on other devices. Every rank must
    call it.

    Were ranks to compute differently, the replicas of ZeRO-0 would drift apart.
    """
    if device.type not in ("cpu", "cuda"):
        return None
    kernel = own(device)
    return None if any_rank(kernel is None, device) else kernel
