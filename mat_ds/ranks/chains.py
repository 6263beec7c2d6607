"""Divides the ranks of a run among several chains of the parameters, which meet where outer steps end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mat_ds.ranks.collectives import own_rank, world_size


@dataclass(frozen=True)
class Chains:
    """The chains of a run, of equally many consecutive ranks each. One chain of all ranks by default.

    Attributes:
        count: number of chains.
        own: that of this rank, counted from 0.
        inside: the ranks of its chain, which share its weights; None: all ranks.
        across: the ranks, one of each chain, that hold the same shards as this one; None: there is one chain.
        alone: this rank.
        moments: whether they average the moments of their gradients too, where they meet.
        every: outer steps that each makes from one meeting to the next.
    """

    count: int = 1
    own: int = 0
    inside: dist.ProcessGroup | None = None
    across: dist.ProcessGroup | None = None
    alone: dist.ProcessGroup | None = None
    moments: bool = False
    every: int = 1

    @property
    def key(self) -> tuple[str | int, ...]:
        """What tells its random draws from those of other chains; empty if there is only one."""
        return ("chain", self.own) if self.count > 1 else ()

    def average(self, value: Tensor, device: torch.device) -> None:
        """Overwrites a tensor with its mean over the chains. Every rank must call it; nothing else moves between chains.

        Args:
            value: perhaps in host memory.
            device: that the ranks send from.
        """
        if self.across is None:
            return
        sent = value.to(device)
        dist.all_reduce(sent, group=self.across)
        value.copy_(sent.div_(self.count))


ONE_CHAIN = Chains()


def mean_of_chains(values: Sequence[Tensor]) -> Tensor:
    """The mean of equally large tensors, one of each chain; of one, itself, bit for bit."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean(0)


def make_chains(count: int, moments: bool = False, every: int = 1) -> Chains:
    """Divides the ranks among `count` chains. Every rank must call it.

    Args:
        count: a divisor of the number of ranks.
        moments: whether the chains average their moments too.
        every: outer steps from one meeting to the next.
    """
    if count == 1:
        return ONE_CHAIN
    ranks, rank = world_size(), own_rank()
    size = ranks // count
    # Every rank takes part in making every group, in the same order.
    inside = [dist.new_group(list(range(first, first + size))) for first in range(0, ranks, size)]
    across = [dist.new_group(list(range(place, ranks, size))) for place in range(size)]
    alone = [dist.new_group([one]) for one in range(ranks)]
    own = rank // size
    return Chains(count, own, inside[own], across[rank % size], alone[rank], moments, every)
