"""What a chain of the parameters moved by in one outer step, for telemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from mat_ds.sampling.slices import Block


class Watched:
    """The moves of one outer step, over the shards of this rank; costs a copy of them.

    Args:
        blocks: the master tensors, and their blocks.
        samples: K.

    Attributes:
        starts: theta_t.
        drifts, noises: squared norms of drift and noise of each sample.
        by_chain: squared distance of the last sample from theta_t.
        apart: squared distance of what this chain came to from the mean of all chains.
    """

    def __init__(self, blocks: Mapping[Tensor, Sequence[Block]], samples: int):
        self._blocks = blocks
        self.starts = {master: master.detach().clone() for master in blocks}
        self.drifts, self.noises = [0.0] * samples, [0.0] * samples
        self.by_chain = self.apart = 0.0

    @property
    def moved(self) -> tuple[float, float]:
        """Squared distances of the last sample and of theta_{t+1} from theta_t."""
        return self.by_chain, sum(self.distance(master, master.detach(), start) for master, start in self.starts.items())

    def distance(self, master: Tensor, one: Tensor, other: Tensor) -> float:
        """Squared distance of two values of a master tensor, without its padding."""
        pairs = ((one.view(-1)[block.here], other.view(-1)[block.here]) for block in self._blocks[master])
        return sum(squared_distance(a, b) for a, b in pairs)


def squared_distance(one: Tensor, other: Tensor) -> float:
    """||one - other||^2, summed in fp64."""
    return float((one - other).double().square().sum())
