"""FreeLB: free large-batch adversarial training (Zhu et al. 2020, Algorithm 1).

    min over theta of E[ (1/K) sum over t < K of L(x + delta_t) ],   delta_{t+1} = Pi[ delta_t + alpha g_t / ||g_t|| ]

Each of the K passes that move the perturbation also trains the parameters, as if the batch were K times as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.methods.ball import BallSettings, ascend_in_ball, attack, uniform_delta
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class FreeLBSettings(BallSettings):
    name: Literal["freelb"] = Field("freelb", description="free large-batch adversarial training")


class FreeLB(Method):
    """K passes at delta_0 .. delta_{K-1}, then one update with the average of their gradients.

    K is the paper's, the number of averaged gradients; `adv_steps` of the released fairseq code is one less. All K passes have
    the same dropout masks (section 3.3).
    """

    Settings = FreeLBSettings
    settings: FreeLBSettings
    masks = ("theta",)

    @property
    def cost(self) -> int:
        return 3 * self.settings.delta_steps

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        s = self.settings
        return attack(engine, batch, s, self.objective, self.masks, s.delta_steps - 1, moves)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        s, means = self.settings, Means()
        for _ in engine.inner_steps():
            for batch in batches:
                delta = uniform_delta(engine, batch, s)
                for _ in range(s.delta_steps):
                    delta = delta.requires_grad_()
                    loss = self.objective.loss(engine.forward(batch, self.masks, delta), batch)
                    gradient = engine.backward(loss / s.delta_steps, delta)
                    delta = ascend_in_ball(delta, gradient, batch, s)
                    means.add(loss=loss, L=loss)
            engine.update()
        return means()
