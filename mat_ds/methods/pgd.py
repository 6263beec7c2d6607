"""PGD: K-step projected gradient descent adversarial training (Madry et al. 2018; on word embeddings in Zhu et al. 2020).

    min over theta of E[ max over ||delta|| <= epsilon of L(x + delta) ]

The maximum is approximated by K ascents. Only the last delta trains the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.methods.ball import BallSettings, attack
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class PGDSettings(BallSettings):
    name: Literal["pgd"] = Field("pgd", description="K-step adversarial training, the last perturbation only")

    @property
    def separate_passes(self) -> bool:
        return True


class PGD(Method):
    """K ascents and one training pass, all under the same dropout masks."""

    Settings = PGDSettings
    settings: PGDSettings
    masks = ("theta",)

    @property
    def cost(self) -> int:
        return 2 * self.settings.delta_steps + 3

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        s = self.settings
        return attack(engine, batch, s, self.objective, self.masks, s.delta_steps, moves)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        deltas = [self.adversary(engine, batch) for batch in batches]
        for _ in engine.inner_steps():
            for batch, delta in zip(batches, deltas, strict=True):
                loss = self.objective.loss(engine.forward(batch, self.masks, delta), batch)
                engine.backward(loss)
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
