"""Describes the failure that ended a rank."""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from mat_ds.errors import PeerError, masked
from mat_ds.terminal.display import show

SPARE_MEMORY = (
    "To use less: a smaller train.micro_batch_size (the batch stays what it is), in evaluation train.eval_micro_batch_size; "
    "model.gradient_checkpointing=true, a higher ZeRO stage or offload (--ds_config), a smaller data.max_length, at ZeRO-3 "
    "model.gather=layer. `mat-ds plan` says what a run needs."
)


@dataclass(frozen=True)
class Failure:
    """The failure that ended a rank.

    Attributes:
        kind: `own`: this rank failed by itself; `collective`: a collective failed, so another rank may be gone; `notified`:
            another rank has reported its failure.
        host: the rank's node.
        summary: the error in one line.
        text: rank, host, traceback and possibly advice.
    """

    kind: Literal["own", "collective", "notified"]
    host: str
    summary: str
    text: str

    @classmethod
    def of(cls, error: Exception, rank: int) -> Failure:
        host = socket.gethostname()
        summary = masked(traceback.format_exception_only(error)[-1].strip().splitlines()[0])[:200]
        text = f"rank {rank} on {host} failed:\n{masked(''.join(traceback.format_exception(error)))}"
        return cls(_failure_kind(error), host, summary, text + _failure_advice(error, rank))


def say(text: str) -> None:
    """Prints to stderr, below a progress bar."""
    show(f"\n{text}", sys.stderr)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes, the earliest last."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _failure_kind(error: Exception) -> Literal["own", "collective", "notified"]:
    # During clean-up, an error may cause a second one in a collective. The first one counts.
    *_, first = _chain(error)
    if isinstance(first, PeerError):
        return "notified"
    # gloo raises plain RuntimeErrors that start with the name of a source file.
    return "collective" if isinstance(first, dist.DistError) or "/gloo/" in str(first) else "own"


def _failure_advice(error: Exception, rank: int) -> str:
    """Advice for an out-of-memory error; empty for other errors."""
    for cause in _chain(error):
        short = isinstance(cause, (MemoryError, torch.OutOfMemoryError))
        if short or any(words in str(cause) for words in ("CUDA error: out of memory", "can't allocate memory")):
            on_gpu = isinstance(cause, torch.OutOfMemoryError) or "CUDA" in str(cause)
            on_gpu &= torch.accelerator.is_available()
            device = f"GPU {torch.accelerator.current_device_index()}" if on_gpu else "the CPU"
            return f"\nrank {rank} ran out of memory on {device} of its node. {SPARE_MEMORY}"
    return ""
