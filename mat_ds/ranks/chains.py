"""Divides the ranks of a run among several chains of the parameters, which meet where outer steps end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mat_ds.ranks.collectives import own_rank, world_size
from mat_ds.ranks.compressed import COMPRESSIONS, Compression, average_moves


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
        compression: how their moves are sent where they meet; None: the parameters themselves, in fp32.
    """

    count: int = 1
    own: int = 0
    inside: dist.ProcessGroup | None = None
    across: dist.ProcessGroup | None = None
    alone: dist.ProcessGroup | None = None
    moments: bool = False
    every: int = 1
    compression: Compression | None = None

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

    def average_moves(self, value: Tensor, met: Tensor, residue: Tensor | None, device: torch.device) -> None:
        """Overwrites a flat tensor with where all chains met last, plus the mean of their moves since, sent by `compression`.
        Every rank must call it.

        Args:
            value, met: (n,), where this chain is now, and where it met the others.
            residue: (n,), what rounding has left out so far, which is brought up to date; None without error feedback.
            device: that the ranks send from.
        """
        assert self.compression and self.across
        average_moves(self.compression, value, met, residue, self.across, device)

    def take(self, value: Tensor, chain: int, device: torch.device) -> None:
        """Overwrites a tensor with that of a chain. Every rank must call it; the other arguments are as for `average`.

        Args:
            chain: counted from 0.
        """
        if self.across is None:
            return
        sent = value.to(device)
        dist.broadcast(sent, dist.get_global_rank(self.across, chain), group=self.across)
        value.copy_(sent)


ONE_CHAIN = Chains()


def mean_of_chains(values: Sequence[Tensor]) -> Tensor:
    """The mean of equally large tensors, one of each chain; of one, itself, bit for bit."""
    return values[0] if len(values) == 1 else torch.stack(list(values)).mean(0)


def make_chains(count: int, moments: bool = False, every: int = 1, compression: str = "none") -> Chains:
    """Divides the ranks among `count` chains. Every rank must call it.

    Args:
        count: a divisor of the number of ranks.
        moments: whether the chains average their moments too.
        every: outer steps from one meeting to the next.
        compression: a key of `COMPRESSIONS`, or `none`.
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
    return Chains(count, own, inside[own], across[rank % size], alone[rank], moments, every, COMPRESSIONS.get(compression))
