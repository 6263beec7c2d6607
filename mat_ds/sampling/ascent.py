"""Ascents in the parameters, over shards of them: sharpness-aware minimisation and adversarial weight perturbation.

What an ascent is divided by is known only when every shard's gradient is, so it has two halves with a sum over the ranks
between them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mat_ds.sampling.slices import Block, Slice

# ASAM's eta, in the authors' code: entries near zero can move too.
LEAST_SCALE = 0.01


class Ascent(ABC):
    """The first of a chain's two samples, which climbs. All tensors but `void` and the sums are of one block, flat."""

    def aim(self, block: Block, theta: Tensor, gradient: Tensor, void: Tensor, aim: Tensor, parameters: int) -> Tensor:
        """Writes the direction of ascent to `aim`, zero if the step is void; returns, in fp64, what is summed over all blocks.

        Args:
            parameters: the number of trained parameters.
        """
        aim.copy_(gradient.masked_fill(void.bool(), 0.0))
        return self._sums(block, theta, aim, parameters)

    def climb(self, block: Block, theta: Tensor, aim: Tensor, sums: Tensor) -> None:
        """Moves theta along `aim`, which becomes what theta was; `sums` are those of all blocks on all ranks."""
        before = theta.clone()
        self._move(block, theta, aim, sums)
        aim.copy_(before)

    @abstractmethod
    def no_sums(self, parameters: int) -> Tensor:
        """What `aim` returns of no block at all, on the CPU."""

    @abstractmethod
    def _sums(self, block: Block, theta: Tensor, aim: Tensor, parameters: int) -> Tensor: ...

    @abstractmethod
    def _move(self, block: Block, theta: Tensor, aim: Tensor, sums: Tensor) -> None: ...


@dataclass(frozen=True)
class SharpnessAscent(Ascent):
    """SAM's (Foret et al. 2021), with `adaptive` ASAM's (Kwon et al. 2021); nothing moves where the norm is 0.

        eps = rho T^2 g / ||T g||,   T = 1 (SAM) or |theta| + eta, entry by entry (ASAM),   the norm over all parameters

    Attributes:
        radius: rho.
        adaptive: whether each entry is scaled by its parameter (ASAM).
    """

    radius: float
    adaptive: bool = False

    def no_sums(self, parameters: int) -> Tensor:
        return torch.zeros((), dtype=torch.float64)

    def _sums(self, block: Block, theta: Tensor, aim: Tensor, parameters: int) -> Tensor:
        """||T g||^2, a scalar."""
        if self.adaptive:
            scale = theta.abs().add_(LEAST_SCALE)
            aim.mul_(scale)
            square = aim.double().square().sum()
            aim.mul_(scale)
            return square
        return aim.double().square().sum()

    def _move(self, block: Block, theta: Tensor, aim: Tensor, sums: Tensor) -> None:
        norm = sums.sqrt()
        theta.add_(aim.mul_(torch.where(norm > 0, self.radius / norm, 0.0).to(aim)))


@dataclass(frozen=True)
class LayerAscent(Ascent):
    """AWP's (Wu et al. 2020, eq. 8 and 10, one step from 0): each matrix moves by a share of its own length.

        v_l = gamma ||theta_l|| g_l / ||g_l||   for each matrix l;   vectors, and matrices without a gradient, stay

    Attributes:
        share: gamma.
    """

    share: float

    def no_sums(self, parameters: int) -> Tensor:
        return torch.zeros(parameters, 2, dtype=torch.float64)

    def _sums(self, block: Block, theta: Tensor, aim: Tensor, parameters: int) -> Tensor:
        """||theta_l||^2 and ||g_l||^2 of each parameter, (parameters, 2)."""
        found = torch.zeros(parameters, 2, dtype=torch.float64, device=theta.device)
        for piece, here in _matrices(block):
            found[piece.parameter, 0] += theta[here].double().square().sum()
            found[piece.parameter, 1] += aim[here].double().square().sum()
        return found

    def _move(self, block: Block, theta: Tensor, aim: Tensor, sums: Tensor) -> None:
        size, slope = sums.sqrt().unbind(1)
        factors = torch.where(slope > 0, self.share * size / slope, 0.0).to(aim)
        for piece, here in _matrices(block):
            theta[here].add_(aim[here].mul_(factors[piece.parameter]))


def _matrices(block: Block) -> Iterator[tuple[Slice, slice]]:
    """The slices of matrices in a block, and where they lie in it."""
    for piece in block.slices:
        if piece.matrix:
            start = piece.start - block.here.start
            yield piece, slice(start, start + piece.numel)
