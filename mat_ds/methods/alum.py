"""ALUM: adversarial training for large neural language models (Liu et al. 2020, Algorithm 1), in fine-tuning.

min over theta of E[ L(z) + alpha max over ||delta||_inf <= epsilon of sKL(f(x), f(x + delta)) ]: virtual adversarial training,
where the adversary attacks the prediction, not the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mat_ds.config.section import MethodSettings
from mat_ds.methods.base import Engine, Means, MicroBatch, Objective
from mat_ds.methods.smoothness import Count, SmoothnessSettings, ascend, clean_prediction
from mat_ds.sampling.chain import Chain


class ALUMSettings(SmoothnessSettings):
    name: Literal["alum"] = Field("alum", description="virtual adversarial fine-tuning")
    delta_steps: Count = Field(1, description="K of the perturbation: ascents per batch")


class ALUM:
    """K ascents along the raw gradient, clamped to the ball, then one update on L + lam R, R through both predictions.

    The paper's algorithm as printed. Its code perturbs the output of the whole embedding block and scales delta to a unit
    Linf norm per token, which on word embeddings would destroy the input. The gradient is that of each sample's own R, so
    that a step does not depend on the size of the batch.
    """

    Settings: ClassVar[type[MethodSettings]] = ALUMSettings
    chain = Chain()

    def __init__(self, settings: ALUMSettings, objective: Objective):
        self.settings, self.objective = settings, objective

    @property
    def cost(self) -> int:
        return 6 + 2 * self.settings.delta_steps

    def adversary(self, engine: Engine, batch: MicroBatch) -> Tensor:
        return self._ascend(engine, batch, clean_prediction(engine, batch))

    def _ascend(self, engine: Engine, batch: MicroBatch, clean: Tensor) -> Tensor:
        return ascend(engine, batch, clean, self.settings, self.objective, "raw", self.settings.delta_steps)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for _ in engine.inner_steps(1):
            for batch in batches:
                clean = engine.forward(batch, ("theta",))
                delta = self._ascend(engine, batch, clean)
                perturbed = engine.forward(batch, ("theta", "perturbed"), delta)
                task, r = self.objective.loss(clean, batch.labels), self.objective.divergence(clean, perturbed).mean()
                loss = task + self.settings.lam * r
                engine.backward(loss)
                means.add(loss=loss, L=task, R=r)
            engine.update()
        return means()
