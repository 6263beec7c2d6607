"""R3F: robust representations through regularised finetuning (Aghajanyan et al. 2021, eq. 5).

    min over theta of E[ L(z) + lam sKL(z, z') ],   z = f(x),   z' = f(x + xi)

xi is small random noise; nothing is maximised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mat_ds.config.section import Weight
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import AdversarialSettings, Divergence, MethodSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class R3FSettings(AdversarialSettings):
    needs_distributions: ClassVar[bool] = True

    name: Literal["r3f"] = Field("r3f", description="regularised finetuning against random noise")
    lam: Weight = Field(1.0, description="weight lambda of the divergence")
    noise: Literal["uniform", "normal"] = Field("uniform", description="distribution of the noise")
    noise_scale: Weight = Field(1e-5, description="sigma: half width of the uniform, standard deviation of the normal noise")

    @property
    def divergence(self) -> Divergence:
        return Divergence("lam", self.lam)

    @property
    def radius_powers(self) -> Mapping[str, float]:
        return {"noise_scale": 1.0}


class R3F(Method):
    """One update on a clean pass and a pass with noise. R is differentiated through both.

    As in the authors' code, the pass with noise does not train the word embeddings. Padding gets no noise, where it would
    have no effect.
    """

    Settings: ClassVar[type[MethodSettings]] = R3FSettings
    settings: R3FSettings
    cost = 6

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        draw = engine.uniform if self.settings.noise == "uniform" else engine.normal
        return self.settings.noise_scale * draw(batch, "noise") * batch.mask

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        for _ in engine.inner_steps():
            for batch in batches:
                noise = self.adversary(engine, batch)
                clean, noised = engine.forward_pair(batch, noise, ("theta",), train_words=False)
                task = self.objective.loss(clean, batch)
                r = self.objective.divergence(clean, noised, batch).mean()
                loss = task + self.settings.lam * r
                engine.backward(loss)
                means.add(loss=loss, L=task, R=r)
            engine.update()
        return means()
