"""SMART: smoothness-inducing regularisation and Bregman proximal point optimisation (Jiang et al. 2020, Algorithm 1).

    min over theta of E[ L + lam R_s + mu D_Breg(theta, theta~) ]

R_s is the largest divergence of clean and perturbed prediction in a Linf ball. D_Breg is the divergence from the prediction of
theta~, a moving average of the parameters (mean teacher): theta~ <- beta theta~ + (1 - beta) theta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Fraction, Weight
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.smoothness import AscentSettings, ascend, clean_prediction
from mat_ds.sampling.average import Average
from mat_ds.sampling.chain import Chain

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves

# Of the teacher in the first tenth of the updates (section 4.1).
EARLY_DECAY = 0.99


class SMARTSettings(AscentSettings):
    name: Literal["smart"] = Field("smart", description="smoothness-inducing regulariser and Bregman proximal term")
    mu: Weight = Field(1.0, description="weight of the Bregman term; 0: no teacher is kept")
    teacher_decay: Fraction = Field(
        0.999, description="beta of the teacher theta~ = beta theta~ + (1 - beta) theta; 0.99 in the first tenth of the updates"
    )


class SMART(Method):
    """The paper's algorithm with S = 1. The authors' code differs: it has no teacher and another perturbation.

    Two details are chosen here. A gradient is divided by the Linf norm of its own sample; the paper takes the norm over the
    batch, which would depend on how batches are split. The teacher predicts without dropout.
    """

    Settings = SMARTSettings
    settings: SMARTSettings

    @property
    def chain(self) -> Chain:
        s = self.settings
        return Chain(averages={"teacher": Average(s.teacher_decay, EARLY_DECAY)} if s.mu else {})

    @property
    def cost(self) -> int:
        return 6 + 2 * self.settings.delta_steps + bool(self.settings.mu)

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        return ascend(engine, batch, clean_prediction(engine, batch), self.settings, self.objective, moves)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        s, means = self.settings, Means()
        taught = self._teacher(engine, batches)
        for _ in engine.inner_steps():
            for batch, target in zip(batches, taught, strict=True):
                clean = engine.forward(batch, ("theta",))
                delta = ascend(engine, batch, clean, s, self.objective)
                perturbed = engine.forward(batch, ("theta", "perturbed"), delta)
                task, r = self.objective.loss(clean, batch), self.objective.divergence(clean, perturbed, batch).mean()
                loss = task + s.lam * r
                if target is not None:
                    bregman = self.objective.divergence(clean, target, batch).mean()
                    loss = loss + s.mu * bregman
                    means.add(bregman=bregman)
                engine.backward(loss)
                means.add(loss=loss, L=task, R=r)
            engine.update()
        return means()

    def _teacher(self, engine: Engine, batches: Sequence[MicroBatch]) -> list[Tensor | None]:
        """Logits (B, C) of the teacher for each micro-batch; None for each if there is no Bregman term."""
        if not self.settings.mu:
            return [None] * len(batches)
        with engine.averaged_weights("teacher"):
            return [engine.probe(batch, None) for batch in batches]
