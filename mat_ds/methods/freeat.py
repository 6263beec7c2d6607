"""FreeAT: adversarial training for free (Shafahi et al. 2019, Algorithm 1; on word embeddings in Zhu et al. 2020).

Each batch is replayed m times. The backward pass of a replay has two uses: it updates the parameters, and it moves the
perturbation for the next replay:

    theta <- theta - gamma P(grad_theta L(x + delta)),   delta <- Pi[ delta + alpha g / ||g|| ],   g = grad_delta L(x + delta)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.methods.ball import BallSettings, ascend_in_ball, attack, uniform_delta
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import ChainedSettings
from mat_ds.sampling.chain import Chain

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class FreeATSettings(ChainedSettings, BallSettings):
    name: Literal["freeat"] = Field("freeat", description="free adversarial training: delta_steps replays, an update each")


class FreeAT(Method):
    """m = delta_steps replays, each with an update and with dropout masks of its own; the step size is the same in all.

    The original keeps delta from batch to batch. Texts differ in length, so here delta is drawn again for every batch, as in
    the port to text by FreeLB's authors. To keep the number of updates constant, divide the epochs by m, as the original does.
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
            # A replay whose update was skipped (fp16 overflow) is repeated from its own start.
            deltas[k + 1] = []
            for batch, start in zip(batches, deltas[k], strict=True):
                delta = start.requires_grad_()
                loss = self.objective.loss(engine.forward(batch, ("theta", k), delta), batch)
                gradient = engine.backward(loss, delta)
                deltas[k + 1].append(ascend_in_ball(delta, gradient, batch, s))
                means.add(loss=loss, L=loss)
            engine.update()
        return means()
