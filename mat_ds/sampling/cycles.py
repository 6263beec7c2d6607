"""Cyclical sampling (cSG-MCMC, Zhang et al. 2020).

In each of several equal cycles the step size falls from its peak along half a cosine, first without noise, to find a minimum,
and then with noise, to draw samples around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cycles:
    """Where in a cycle an outer step t = 0 .. total - 1 lies.

    Attributes:
        first: outer steps of the warm-up, before the first cycle.
        total: outer steps of the run.
        count: of the cycles.
        explore: share of each cycle that has no noise.
    """

    first: int
    total: int
    count: int = 1
    explore: float = 0.0

    def place(self, step: int) -> float:
        """The share of its cycle that is over before a step after the warm-up, in [0, 1): r(t), equation 1."""
        length = max(1, self.total - self.first)
        return (step - self.first) * self.count % length / length

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """The first outer step with noise of each cycle, and the first one after the cycle."""
        length, count = self.total - self.first, self.count
        return tuple(
            (self.first + math.ceil((i + self.explore) * length / count), self.first + math.ceil((i + 1) * length / count))
            for i in range(count)
        )
