"""YOPO-m-n: you only propagate once (Zhang et al. 2019, section 3.2; on word embeddings in the code of Zhu et al. 2020).

    p_j = grad_h L at h = f_0(x + delta_{j,0}),   delta_{j,s+1} = Pi[ delta_{j,s} + alpha g / ||g|| ],   s = 0 .. n-1
    g = grad_delta <p_j, f_0(x + delta_{j,s})>,   delta_{j+1,0} = delta_{j,n}

f_0 is the model up to the end of its first layer. Each of the m passes through the whole model trains the parameters, as those
of FreeLB do, and leaves p_j, with which the perturbation takes n steps that pass through f_0 alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Count
from mat_ds.errors import Problem
from mat_ds.methods.ball import BallSettings, ascend_in_ball, uniform_delta
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import Serves

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class YOPOSettings(BallSettings):
    name: Literal["yopo"] = Field(
        "yopo", description="you only propagate once: most ascents pass through the first layer alone"
    )
    delta_steps: Count = Field(3, description="m: passes through the whole model per batch, whose gradients are averaged")
    layer_steps: Count = Field(2, description="n: ascents through the first layer after each of these passes but the last")
    layers: Count = Field(
        12, description="of the model, checked before training: a pass through the first costs 1/layers of a whole one"
    )

    @property
    def variant(self) -> str:
        return f"{self.delta_steps}-{self.layer_steps}"

    @property
    def counted_layers(self) -> int | None:
        return self.layers

    def engine_problems(self, serves: Serves) -> Iterator[Problem]:
        if serves.no_partial_pass:
            fix = "take a ds_config with ZeRO 0, 1 or 2, or another method, such as freelb"
            yield Problem("method.name", self.name, serves.no_partial_pass, fix)


class YOPO(Method):
    """m passes at delta_{1,0} .. delta_{m,0}, then one update with the average of their gradients.

    The passes that leave p_j are those that train, as in the authors' code; the paper's sum has the gradients at delta_{j,n},
    one pass further. That code also adds the first layer's gradient at delta_{j,n} under p_j, for which alone it steps after
    the last pass; here that is left out. Gradients are averaged, where theirs are summed at a smaller step size. All passes
    have the same dropout masks, those that end at the first layer included.
    """

    Settings = YOPOSettings
    settings: YOPOSettings
    masks = ("theta",)

    @property
    def cost(self) -> Fraction:
        s = self.settings
        return 3 * s.delta_steps + Fraction(2 * s.layer_steps * (s.delta_steps - 1), s.layers)

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        delta = uniform_delta(engine, batch, self.settings)

        def payoff(logits: Tensor) -> Tensor:
            return self.objective.loss(logits, batch) * len(batch.labels)

        for _ in range(self.settings.delta_steps - 1):
            delta = self._ascend(engine, batch, delta, engine.first_layer_slope(batch, self.masks, delta, payoff), moves)
        return delta

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        s, means = self.settings, Means()
        for _ in engine.inner_steps():
            for batch in batches:
                delta = uniform_delta(engine, batch, s)
                for left in reversed(range(s.delta_steps)):
                    logits, first = engine.forward_split(batch, self.masks, delta)
                    loss = self.objective.loss(logits, batch)
                    slope = engine.backward(loss / s.delta_steps, first)
                    if left:
                        delta = self._ascend(engine, batch, delta, slope)
                    means.add(loss=loss, L=loss)
            engine.update()
        return means()

    def _ascend(self, engine: Engine, batch: MicroBatch, delta: Tensor, slope: Tensor, moves: Moves | None = None) -> Tensor:
        """delta_{j,n} from delta_{j,0}, (B, L, H), given p_j."""
        for _ in range(self.settings.layer_steps):
            gradient = engine.first_layer_gradient(batch, self.masks, delta, slope)
            delta = ascend_in_ball(delta, gradient, batch, self.settings, moves)
        return delta
