"""R-Drop: regularised dropout (Liang et al. 2021, eq. 1-3).

    min over theta of E[ L(z_1) + L(z_2) + (alpha / 2) sKL(z_1, z_2) ]

z_1 and z_2 are the predictions of two passes with different dropout masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Weight
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import Divergence, MethodSettings

if TYPE_CHECKING:
    from torch import Tensor


class RDropSettings(MethodSettings):
    name: Literal["rdrop"] = Field("rdrop", description="regularised dropout: two passes that must agree")
    alpha: Weight = Field(0.5, description="weight of the divergence of the two passes")

    @property
    def divergence(self) -> Divergence:
        return Divergence("alpha", self.alpha)


class RDrop(Method):
    """One update on the paper's objective. For regression, the divergence is (z_1 - z_2)^2, with weight alpha.

    The divergence is averaged over the batch, as in the paper and the authors' fairseq code. Their Hugging Face code sums it:
    its alpha of 0.5 with batches of 16 is an alpha of 8 here.
    """

    Settings = RDropSettings
    settings: RDropSettings
    cost = 6

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means, weight = Means(), self.settings.alpha / self.objective.directions
        for _ in engine.inner_steps():
            for batch in batches:
                first, second = engine.forward_pair(batch, None, ("theta",))
                task = self.objective.loss(first, batch) + self.objective.loss(second, batch)
                r = self.objective.divergence(first, second, batch).mean()
                loss = task + weight * r
                engine.backward(loss)
                means.add(loss=loss, L=task / 2, R=r)
            engine.update()
        return means()
