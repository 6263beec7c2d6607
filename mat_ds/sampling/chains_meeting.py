"""Where the chains of a run meet: at the end of an outer step, each takes the mean of what all came to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.sampling.watched import Watched


class ChainsMeeting:
    """Where the chains of a run meet. Does nothing if there is one.

    Args:
        chains: those of the run.
        device: that the ranks send from.

    Attributes:
        due: whether they meet at the end of the outer step that has begun.
        apart: whether they have moved since they met last.
    """

    def __init__(self, chains: Chains = ONE_CHAIN, device: torch.device | None = None):
        self.chains, self._device = chains, device or torch.device("cpu")
        self.due, self.apart = True, False

    def end(self, master: Tensor, moments: Sequence[Tensor], watched: Watched | None) -> bool:
        """Ends an outer step of a master tensor; whether all chains have the same now. Every rank must call it.

        Args:
            master: of this rank, which becomes the mean if they meet.
            moments: of its gradient, which are averaged as well if `Chains.moments`.
            watched: notes how far the chains are apart, also where they do not meet.
        """
        several = self.chains.count > 1
        self.apart = several and not self.due
        if several and (self.due or watched):
            theta = master.detach()
            before = theta.clone() if watched else None
            for value in (theta, *(moments if self.chains.moments and self.due else ())):
                self.chains.average(value, self._device)
            if watched and before is not None:
                watched.apart += watched.distance(master, before, theta)
                if self.apart:
                    theta.copy_(before)
        return not self.apart
