"""ALUM: adversarial training for large neural language models (Liu et al. 2020, Algorithm 1), in fine-tuning.

min over theta of E[ L(z) + alpha max over ||delta||_inf <= epsilon of sKL(f(x), f(x + delta)) ]: virtual adversarial training,
where the adversary attacks the prediction, not the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from mat_ds.methods.base import Engine, Means, Method, MicroBatch
from mat_ds.methods.moves import Moves
from mat_ds.methods.smoothness import AscentSettings, ascend, clean_prediction


class ALUMSettings(AscentSettings):
    name: Literal["alum"] = Field("alum", description="virtual adversarial fine-tuning")


class ALUM(Method):
    """K ascents, clamped to the ball, then one update on L + lam R, R through both predictions.

    Algorithm 1 prints the raw gradient, which at the published step, 1e-3, and start, 1e-5, leaves delta where it is: R grows
    with the square of delta. It is divided here by the Linf norm of its own sample, as in SMART, with whose code the authors
    fine-tuned; a step does not depend on the size of the batch either. That code goes on to scale delta itself to a unit Linf
    norm per token, at the output of the whole embedding block; on word embeddings this would destroy the input.
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
                task, r = self.objective.loss(clean, batch.labels), self.objective.divergence(clean, perturbed).mean()
                loss = task + self.settings.lam * r
                engine.backward(loss)
                means.add(loss=loss, L=task, R=r)
            engine.update()
        return means()
