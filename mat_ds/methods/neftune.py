"""NEFTune: noisy embeddings in fine-tuning (Jain et al. 2023, Algorithm 1).

    min over theta of E[ L(x + xi) ],   xi uniform on [-1, 1) times alpha / sqrt(L d)

L is the number of the sample's real tokens and d the width of the word embeddings, so that the noise of a sample has the same
expected length, alpha / sqrt(3), whatever the length of the text. Nothing is maximised, and there is no clean pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Weight
from mat_ds.methods import ops
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import AdversarialSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class NEFTuneSettings(AdversarialSettings):
    name: Literal["neftune"] = Field("neftune", description="fine-tuning on noisy embeddings")
    alpha: Weight = Field(5.0, description="size of the noise, divided by the root of real tokens x H; published: 5, 10 and 15")

    @property
    def radius_powers(self) -> Mapping[str, float]:
        return {"alpha": 1.0}


class NEFTune(Method):
    """One update on a pass with noise, drawn anew in every step.

    L counts real tokens, as in the authors' code; the ports in TRL and transformers count padding too, so that there a
    sample's noise depends on the batch that it is in.
    """

    Settings = NEFTuneSettings
    settings: NEFTuneSettings
    cost = 3

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        noise = engine.uniform(batch, "noise") * batch.mask
        return self.settings.alpha * noise / ops.root_of_entries(batch.mask, noise.shape[-1])

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for k in engine.inner_steps():
            for batch in batches:
                loss = self.objective.loss(engine.forward(batch, ("theta", k), self.adversary(engine, batch)), batch)
                engine.backward(loss)
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
