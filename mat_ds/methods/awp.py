"""AWP: adversarial weight perturbation (Wu, Xia and Wang 2020, Algorithm 1).

    min over theta of max over v of E[ max over ||delta|| <= epsilon of L(theta + v, x + delta) ],  ||v_l|| <= gamma ||theta_l||

    v_l = gamma ||theta_l|| g_l / ||g_l||,   g = grad_theta L(theta, x + delta)
    theta <- theta - gamma_theta P(grad L at theta + v, x + delta)

Two adversaries: delta moves the word embeddings of each sample, and v the weights against the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mat_ds.config.section import Positive
from mat_ds.methods.ball import BallSettings, attack
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.sampling.chain import Chain

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class AWPSettings(BallSettings):
    name: Literal["awp"] = Field("awp", description="adversarial weight perturbation")
    gamma: Positive = Field(5e-3, description="how far each matrix is moved, as a share of its own length")
    delta_steps: Annotated[int, Field(ge=0)] = Field(
        3, description="K of the perturbation of the embeddings, as in pgd; 0: none, the weights alone are perturbed"
    )

    @property
    def separate_passes(self) -> bool:
        return self.delta_steps > 0

    @property
    def radius_powers(self) -> Mapping[str, float]:
        return super().radius_powers if self.delta_steps else {}


class AWP(Method):
    """delta by PGD at theta_t, then an ascent and a descent as in SAM, all under the same dropout masks.

    The paper's A = 1 and one step of v, as in its experiments. The authors' code moves matrices alone; biases and norms stay.
    It finds v by a step of SGD on a copy of the model, which has the direction of the gradient.
    """

    Settings = AWPSettings
    settings: AWPSettings
    masks = ("theta",)

    @property
    def chain(self) -> Chain:
        from mat_ds.sampling.ascent import LayerAscent

        return Chain(samples=2, ascent=LayerAscent(self.settings.gamma))

    @property
    def cost(self) -> int:
        return 2 * self.settings.delta_steps + 6

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor | None:
        s = self.settings
        return attack(engine, batch, s, self.objective, self.masks, s.delta_steps, moves) if s.delta_steps else None

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        deltas = [self.adversary(engine, batch) for batch in batches]
        for k in engine.inner_steps():
            for batch, delta in zip(batches, deltas, strict=True):
                loss = self.objective.loss(engine.forward(batch, self.masks, delta), batch)
                engine.backward(loss)
                means.add(**({"loss": loss, "L": loss} if k == 0 else {"L_sharp": loss}))
            engine.update()
        return means()
