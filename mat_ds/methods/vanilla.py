"""Vanilla fine-tuning: one optimizer step on the task loss per batch. The baseline of all other methods.

With several chains that meet every `train.local_steps` batches it is local SGD (Stich 2019, Algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import ChainedSettings

if TYPE_CHECKING:
    from torch import Tensor


class VanillaSettings(ChainedSettings):
    name: Literal["vanilla"] = Field("vanilla", description="min over theta of L(theta)")


class Vanilla(Method):
    """theta <- theta - gamma P(grad L(theta)), where P is the optimizer's preconditioner."""

    Settings = VanillaSettings
    settings: VanillaSettings
    cost = 3

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for k in engine.inner_steps():
            for batch in batches:
                loss = self.objective.loss(engine.forward(batch, masks=("theta", k)), batch)
                engine.backward(loss)
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
