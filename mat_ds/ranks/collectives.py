"""Collectives: what the ranks of a run send each other. Every rank must call each of these functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from mat_ds.errors import Displaced, PeerError, SaveError, UserError
from mat_ds.storage.disk import REFUSALS

Value = TypeVar("Value")

# The gloo group for control messages; None: the default group, if that is a gloo group itself.
_control: dist.ProcessGroup | None = None


def use_control_group(group: dist.ProcessGroup | None) -> None:
    """Sets the gloo group for control messages; None: the default group."""
    global _control
    _control = group


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks of a group; None: of the whole run."""
    return dist.get_world_size(group)


def own_rank(group: dist.ProcessGroup | None = None) -> int:
    """Number of this rank in a group, counted from 0; None: in the whole run."""
    return dist.get_rank(group)


def all_reduce_sum(value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sums a tensor over the ranks of a group, in place; None: over all ranks."""
    dist.all_reduce(value, group=group)
    return value


def reduce_scatter_sum(whole: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Sums a flat tensor over the ranks of a group, each of which gets its own part of the sum; overwrites the tensor.

    Args:
        whole: of equally long parts, one for each rank.
        group: None: all ranks.
    """
    parts, rank = whole.chunk(world_size(group)), own_rank(group)
    if len(parts) > 1 and dist.get_backend() == "gloo":  # whose own reduce-scatter takes twice as long
        for owner, part in enumerate(parts):
            dist.reduce(part, group=group, group_dst=owner)
    elif len(parts) > 1:
        own = torch.empty_like(parts[rank])
        dist.reduce_scatter_tensor(own, whole, group=group)
        return own
    return parts[rank]


def broadcast_from_rank_zero(value: Tensor, group: dist.ProcessGroup | None = None) -> None:
    """Overwrites a tensor with that of the first rank of a group; None: of rank 0."""
    dist.broadcast(value, group=group, group_src=0)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set on any rank. The same on all ranks."""
    return bool(all_reduce_sum(torch.tensor(float(flag), device=device)).item())


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Which flags are set on any rank. The same on all ranks. Sent by gloo, so that the host does not wait for a GPU."""
    if world_size() == 1:
        return flags
    found = torch.tensor([float(flag) for flag in flags])
    dist.all_reduce(found, group=_control)
    return tuple(bool(value) for value in found)


def max_over_ranks(numbers: Sequence[int]) -> list[int]:
    """The largest of each number on any rank. The same on all ranks. Sent by gloo, so that the host does not wait for a GPU."""
    if world_size() == 1 or not numbers:
        return list(numbers)
    found = torch.tensor(numbers)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_control)
    return [int(number) for number in found]


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenates the rows of all ranks, on every rank. Each rank must have equally many rows."""
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def from_rank_zero(value: Value) -> Value:
    """Rank 0's `value` on every rank."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all_ranks(value: Value) -> list[Value]:
    """Every rank's `value`, by rank, on every rank."""
    found = [value] * world_size()
    dist.all_gather_object(found, value)
    return found


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """Calls a function on rank 0 only.

    The files of a run are written in this way, so that a full disk does not leave the other ranks waiting for rank 0.

    Args:
        function: called on rank 0.

    Returns:
        Its result, on every rank.

    Raises:
        UserError, Displaced, SaveError: on every rank, if the function raises it. An OSError of a full or broken disk counts as
            SaveError.
        PeerError: on all ranks but rank 0, if the function raises anything else.
    """
    result, failure = None, None
    if own_rank() == 0:
        try:
            result = function()
        except Exception as error:
            failure = error
    if isinstance(failure, OSError) and failure.errno in REFUSALS:
        refused = SaveError(str(failure))
        refused.__cause__ = failure
        failure = refused
    told = failure
    if failure and not isinstance(failure, (UserError, Displaced, SaveError)):
        told = PeerError(f"rank 0 failed: {type(failure).__name__}: {failure}")
    result, told = from_rank_zero((result, told))
    if failure or told:
        raise failure or told  # type: ignore[misc]
    return cast(Value, result)


def same_on_all_ranks(fingerprint: str, what: str) -> None:
    """Compares a fingerprint between all ranks.

    Args:
        fingerprint: of this rank's data.
        what: name of the data, in the plural, for the message.

    Raises:
        RuntimeError: on every rank, if it is not the same everywhere.
    """
    gathered = from_all_ranks(fingerprint)
    if others := [rank for rank, found in enumerate(gathered) if found != gathered[0]]:
        raise RuntimeError(f"{what} differ between rank 0 and rank(s) {others}: are the files the same on all nodes?")


def barrier() -> None:
    """Waits for all ranks."""
    dist.barrier()
