"""FreeAT: adversarial training for free (Shafahi et al. 2019, Algorithm 1; on word embeddings in Zhu et al. 2020).

Each batch is replayed m times. One backward of a replay serves both players: it updates the parameters and moves the
perturbation for the next replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from mat_ds.methods.ball import BallSettings, ascend_in_ball, attack, uniform_delta
from mat_ds.methods.base import Engine, Means, Method, MicroBatch
from mat_ds.methods.moves import Moves
from mat_ds.sampling.chain import Chain


class FreeATSettings(BallSettings):
    name: Literal["freeat"] = Field("freeat", description="free adversarial training: delta_steps replays, an update each")


class FreeAT(Method):
    """m = delta_steps replays with an update each, at one step size; fresh dropout masks in every replay.

    For text the perturbation is drawn anew for every batch, as in the FreeLB authors' port: texts differ in length, so the
    original's persistent perturbation has nothing to persist in. To keep the number of updates constant, divide the epochs
    by m, as the original does.
    """

    Settings = FreeATSettings
    settings: FreeATSettings

    @property
    def chain(self) -> Chain:
        return Chain(samples=self.settings.delta_steps)

    @property
    def cost(self) -> int:
        return 3 * self.chain.samples

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        s = self.settings
        return attack(engine, batch, s, self.objective, ("theta", 0), s.delta_steps - 1, moves)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        s, means = self.settings, Means()
        deltas = {0: [uniform_delta(engine, batch, s) for batch in batches]}
        for k in engine.inner_steps():
            # A replay that comes again begins where it began.
            deltas[k + 1] = []
            for batch, start in zip(batches, deltas[k], strict=True):
                delta = start.requires_grad_()
                loss = self.objective.loss(engine.forward(batch, ("theta", k), delta), batch.labels)
                gradient = engine.backward(loss, delta)
                deltas[k + 1].append(ascend_in_ball(delta, gradient, batch, s))
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
