"""Where the chains of a run meet: at the end of an outer step, each takes the mean of what all came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.ranks.compressed import Compression
from mat_ds.sampling.slices import Block
from mat_ds.sampling.watched import Watched

# Where the chains met last, and what rounding has left out of a chain's moves since; only where moves are sent compressed.
MET, RESIDUE = "met", "residue"


def kept_to_meet(how: Compression | None) -> tuple[str, ...]:
    """Names of what is kept beside each master tensor, if chains send their moves so."""
    return () if how is None else (MET, RESIDUE) if how.feedback else (MET,)


class ChainsMeeting:
    """Where the chains of a run meet. Does nothing if there is one.

    Args:
        chains: those of the run.
        device: that the ranks send from.

    Attributes:
        due: whether they meet at the end of the outer step that has begun.
        keeps: whether it then keeps what this chain had come to.
        kept: that, of each master tensor of this rank; empty if the last outer step kept nothing.
        apart: whether they have moved since they met last.
    """

    def __init__(self, chains: Chains = ONE_CHAIN, device: torch.device | None = None):
        self.chains, self._device = chains, device or torch.device("cpu")
        self.due, self.keeps, self.apart = True, False, False
        self.kept: dict[Tensor, Tensor] = {}

    def begin(self, due: bool, keeps: bool) -> None:
        """Begins an outer step; the arguments are the attributes."""
        self.due, self.keeps = due, keeps
        self.kept.clear()

    @torch.no_grad()
    def put(self, chain: int) -> dict[Tensor, Tensor]:
        """Puts what a chain had come to into the master tensors, and returns what was there. Every rank must call it."""
        before = {master: master.detach().clone() for master in self.kept}
        for master, own in self.kept.items():
            master.copy_(own)
            self.chains.take(master.detach(), chain, self._device)
        return before

    @property
    def names(self) -> tuple[str, ...]:
        """Of what is kept beside each master tensor."""
        return kept_to_meet(self.chains.compression)

    def end(
        self, master: Tensor, blocks: Sequence[Block], state: Mapping[str, Any], moments: Sequence[str], watched: Watched | None
    ) -> bool:
        """Ends an outer step of a master tensor; whether all chains have the same now. Every rank must call it.

        Args:
            master: of this rank, which becomes the mean if they meet.
            blocks: its blocks; moves are sent without padding.
            state: that of the optimizer for it.
            moments: names of those of its gradient, which are averaged as well if `Chains.moments`.
            watched: notes how far the chains are apart, also where they do not meet.
        """
        several = self.chains.count > 1
        self.apart = several and not self.due
        if several and (self.due or watched):
            theta = master.detach()
            before = theta.clone() if watched or self.keeps else None
            if before is not None and self.keeps:
                self.kept[master] = before
            if self.due and self.chains.compression:
                self._average_moves(theta, blocks, state)
            else:
                for value in (theta, *(state[name] for name in moments if self.chains.moments and self.due)):
                    self.chains.average(value, self._device)
            if watched and before is not None:
                watched.apart += watched.distance(master, before, theta)
                if self.apart:
                    theta.copy_(before)
        return not self.apart

    def _average_moves(self, theta: Tensor, blocks: Sequence[Block], state: Mapping[str, Any]) -> None:
        flat = {name: state[name].view(-1) for name in self.names}
        for block in blocks:
            kept = {name: tensor[block.here] for name, tensor in flat.items()}
            self.chains.average_moves(theta.view(-1)[block.here], kept[MET], kept.get(RESIDUE), self._device)
            kept[MET].copy_(theta.view(-1)[block.here])
