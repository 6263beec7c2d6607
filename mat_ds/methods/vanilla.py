"""Vanilla fine-tuning: one optimizer step on the task loss; the baseline of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from mat_ds.methods.base import Engine, Means, MicroBatch, Objective
from mat_ds.methods.moves import Moves
from mat_ds.methods.settings import MethodSettings
from mat_ds.sampling.chain import Chain


class VanillaSettings(MethodSettings):
    name: Literal["vanilla"] = Field("vanilla", description="min over theta of L(theta)")


class Vanilla:
    """theta <- theta - gamma P(grad L(theta))."""

    Settings: ClassVar[type[MethodSettings]] = VanillaSettings
    chain = Chain()
    cost = 3

    def __init__(self, settings: VanillaSettings, objective: Objective):
        self.objective = objective

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> None:
        return None

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for k in engine.inner_steps():
            for batch in batches:
                loss = self.objective.loss(engine.forward(batch, masks=("theta", k)), batch.labels)
                engine.backward(loss)
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
