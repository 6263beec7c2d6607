"""SAM: sharpness-aware minimisation (Foret et al. 2021), and ASAM, its scale-invariant form (Kwon et al. 2021).

    min over theta of E[ max over ||T^-1 eps||_2 <= rho of L(theta + eps) ],   eps = rho T^2 g / ||T g||_2,   g = grad L(theta)
    theta <- theta - gamma P(grad L at theta + eps)

T is 1 in SAM, and |theta| + eta entry by entry in ASAM. The adversary perturbs the parameters, not the embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Positive
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import MethodSettings
from mat_ds.sampling.chain import Chain

if TYPE_CHECKING:
    from torch import Tensor


class SAMSettings(MethodSettings):
    name: Literal["sam"] = Field("sam", description="sharpness-aware minimisation")
    rho: Positive = Field(0.05, description="radius of the ascent; published: 0.05 (SAM), 0.5 to 2 (ASAM)")
    adaptive: bool = Field(False, description="whether each entry's share of the radius follows its size (ASAM)")


class SAM(Method):
    """An ascent and a descent, each with the gradient of the whole global batch, under the same dropout masks.

    The authors' code climbs on each device by the gradient of its own examples (m-SAM), which would depend on the number of
    ranks. ASAM's scaling is of all trained parameters here; its authors' code leaves biases out.
    """

    Settings = SAMSettings
    settings: SAMSettings
    cost = 6

    @property
    def chain(self) -> Chain:
        from mat_ds.sampling.ascent import SharpnessAscent

        return Chain(samples=2, ascent=SharpnessAscent(self.settings.rho, self.settings.adaptive))

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for k in engine.inner_steps():
            for batch in batches:
                loss = self.objective.loss(engine.forward(batch, ("theta",)), batch)
                engine.backward(loss)
                means.add(**({"loss": loss, "L": loss} if k == 0 else {"L_sharp": loss}))
            engine.update()
        return means()
