"""The ascent of sharpness-aware minimisation (SAM, Foret et al. 2021; ASAM, Kwon et al. 2021), over shards of the parameters.

    eps = rho T^2 g / ||T g||,   T = 1 (SAM) or |theta| + eta, entry by entry (ASAM),   the norm over all parameters

The norm is known only when every shard's gradient is, so an ascent has two halves with a sum over the ranks between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# ASAM's eta, in the authors' code: entries near zero can move too.
LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Ascent:
    """The first of a chain's two samples as SAM makes it.

    Attributes:
        radius: rho.
        adaptive: whether each entry is scaled by its parameter (ASAM).
    """

    radius: float
    adaptive: bool = False

    def aim(self, theta: Tensor, gradient: Tensor, void: Tensor, aim: Tensor) -> Tensor:
        """Writes T^2 g to `aim`, zero if the step is void; returns ||T g||^2 as a scalar in fp64. All but `void` are flat."""
        aim.copy_(gradient.masked_fill(void.bool(), 0.0))
        if self.adaptive:
            scale = theta.abs().add_(LEAST_SCALE)
            aim.mul_(scale)
            square = aim.double().square().sum()
            aim.mul_(scale)
            return square
        return aim.double().square().sum()

    def climb(self, theta: Tensor, aim: Tensor, norm: Tensor) -> None:
        """theta += rho * aim / norm, and `aim` becomes what theta was; nothing moves where the norm is 0."""
        before = theta.clone()
        theta.add_(aim.mul_(torch.where(norm > 0, self.radius / norm, 0.0).to(aim)))
        aim.copy_(before)
