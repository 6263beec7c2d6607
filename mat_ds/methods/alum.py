"""ALUM: adversarial training for large neural language models (Liu et al. 2020, Algorithm 1), in fine-tuning.

    min over theta of E[ L(z) + alpha max over ||delta||_inf <= epsilon of sKL(f(x), f(x + delta)) ]

This is virtual adversarial training: the adversary moves the prediction away from the clean one and does not use the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.smoothness import AscentSettings, ascend, clean_prediction

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class ALUMSettings(AscentSettings):
    name: Literal["alum"] = Field("alum", description="virtual adversarial fine-tuning")


class ALUM(Method):
    """K ascents within the ball, then one update on L + lam R. R is differentiated through both predictions.

    Algorithm 1 has the raw gradient. R grows with the square of delta, so with the published step of 1e-3 and start of 1e-5
    the raw gradient would not move delta. Here it is divided by the Linf norm of its own sample, as in SMART, whose code the
    authors used for fine-tuning. That code also scales delta to a Linf norm of one per token, at the output of the whole
    embedding block. This is left out: on word embeddings it would destroy the input.
    """

    Settings = ALUMSettings
    settings: ALUMSettings

    @property
    def cost(self) -> int:
        return 6 + 2 * self.settings.delta_steps

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        return ascend(engine, batch, clean_prediction(engine, batch), self.settings, self.objective, moves)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for _ in engine.inner_steps():
            for batch in batches:
                clean = engine.forward(batch, ("theta",))
                delta = ascend(engine, batch, clean, self.settings, self.objective)
                perturbed = engine.forward(batch, ("theta", "perturbed"), delta)
                task, r = self.objective.loss(clean, batch), self.objective.divergence(clean, perturbed, batch).mean()
                loss = task + self.settings.lam * r
                engine.backward(loss)
                means.add(loss=loss, L=task, R=r)
            engine.update()
        return means()
