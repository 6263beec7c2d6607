"""The ranks of a run: who they are, how they meet, what they tell each other, and how they part."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mat_ds.disk import REFUSALS
from mat_ds.engine.launch import told
from mat_ds.engine.lookout import on_lookout
from mat_ds.engine.startup import lighten, release
from mat_ds.engine.watchdog import Process, launchers, watched
from mat_ds.errors import Displaced, PeerError, Problem, SaveError, UserError

Value = TypeVar("Value")

# A rank may have to wait while others read or write tens of gigabytes on a slow shared disk.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)

# The group over which ranks agree on what to do; None: the default one, where that is of the CPU.
_control: dist.ProcessGroup | None = None


@dataclass(frozen=True)
class World:
    """This process among the processes of the run, known before any of them speaks to another.

    Attributes:
        launchers: the processes that started it and wait for it, the nearest first.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launchers: tuple[Process, ...] = ()

    @classmethod
    def from_environment(cls) -> World:
        """What the launcher says; one process without a launcher. Raises `UserError` if that cannot be."""
        said = told()
        return cls(said.rank, said.size, said.local_rank, said.local_size, launchers() if said.size > 1 else ())


@contextmanager
def process_group(world: World, timeout: timedelta = COLLECTIVE_TIMEOUT) -> Iterator[torch.device]:
    """The process group of the run and the device of this rank; every group is gone on every path out.

    A gloo group keeps threads, and a thread keeps the last tensors it moved. If one drops such a tensor while the
    interpreter shuts down, Python ends the thread inside a C++ destructor and the process aborts ("terminate called
    without an active exception"). Destroying a group is not enough: its threads end when nothing refers to it any more.

    Args:
        world: this rank.
        timeout: how long a rank waits for the others, in a collective of any group and to meet them.

    Raises:
        PeerError: if the ranks did not meet.
    """
    import deepspeed
    from deepspeed import comm
    from deepspeed.accelerator import get_accelerator

    lighten()
    if world.size == 1:  # it meets nobody, whatever a launcher around it has left in the environment
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in (("RANK", world.rank), ("WORLD_SIZE", world.size), ("LOCAL_RANK", world.local_rank)):
        os.environ.setdefault(name, str(value))
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        accelerator.set_device(world.local_rank)
    global _control
    with ExitStack() as outer:
        outer.enter_context(_default_timeout(timeout))
        if world.size > 1:
            outer.enter_context(watched(f"rank {world.rank}", world.launchers, timeout.total_seconds()))
        try:
            deepspeed.init_distributed(verbose=False, timeout=timeout)
        except dist.DistError as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise PeerError(f"{world.size} ranks were to meet at {place} within {timeout} and did not: {error}. "
                            "One that failed before has said why") from None  # fmt: skip
        _control = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        try:
            if world.size > 1:
                outer.enter_context(on_lookout(world.rank, world.size, world.local_rank))
            yield torch.device(accelerator.current_device_name())
        finally:
            _control = None
            comm.destroy_process_group()
            release()
            gc.collect()


@contextmanager
def _default_timeout(timeout: timedelta) -> Iterator[None]:
    """Within it new groups get this time-out: DeepSpeed passes its own to the first group only."""
    c10d: Any = dist.distributed_c10d
    before = c10d.default_pg_timeout, c10d.default_pg_nccl_timeout
    c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout
    try:
        yield
    finally:
        c10d.default_pg_timeout, c10d.default_pg_nccl_timeout = before


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum of `value` over all ranks, in place."""
    dist.all_reduce(value)
    return value


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank; all ranks get the same answer."""
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)).item())


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Which of `flags` are set on any rank, the same on all ranks; over the CPU, so that nothing waits for a GPU."""
    if dist.get_world_size() == 1:
        return flags
    found = torch.tensor([float(flag) for flag in flags])
    dist.all_reduce(found, group=_control)
    return tuple(bool(value) for value in found)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks, one below the other, on every rank; each rank must bring equally many."""
    gathered = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def from_rank_zero(value: Value) -> Value:
    """Rank 0's `value` on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all_ranks(value: Value) -> list[Value]:
    """Every rank's `value`, by rank, on every rank."""
    found = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """What `function` returns on rank 0, on every rank; what it raises there, every rank raises. Every rank must call it.

    Files of a run are written like this: a full disk must not leave the other ranks waiting for the first.
    """
    result, failure = None, None
    if dist.get_rank() == 0:
        try:
            result = function()
        except Exception as error:
            failure = error
    if isinstance(failure, OSError) and failure.errno in REFUSALS:
        refused = SaveError(str(failure))
        refused.__cause__ = failure
        failure = refused
    told: str | tuple[Problem, ...] | Displaced | SaveError | None = None
    if isinstance(failure, (Displaced, SaveError)):
        told = failure
    elif failure:
        told = failure.problems if isinstance(failure, UserError) else f"{type(failure).__name__}: {failure}"
    result, told = from_rank_zero((result, told))
    if failure:
        raise failure
    if isinstance(told, tuple):
        raise UserError(*told)
    if isinstance(told, Exception):
        raise told
    if told:
        raise PeerError(f"rank 0 failed: {told}")
    return cast(Value, result)


def same_on_all_ranks(fingerprint: str, what: str) -> None:
    """Compares a fingerprint over all ranks.

    Raises:
        RuntimeError: on every rank, if it is not the same everywhere.
    """
    gathered = from_all_ranks(fingerprint)
    if others := [rank for rank, found in enumerate(gathered) if found != gathered[0]]:
        raise RuntimeError(f"{what} differ between rank 0 and rank(s) {others}: are the files the same on all nodes?")


def barrier() -> None:
    """Waits for all ranks."""
    dist.barrier()
