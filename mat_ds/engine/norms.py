"""How large things are over all ranks: an update's gradient, and how far the parameters move by drift and by noise."""

from __future__ import annotations

import torch

from mat_ds.engine.passes import Passes
from mat_ds.engine.shards import Shards
from mat_ds.ranks.collectives import all_reduce_sum
from mat_ds.sampling.sampler import Sampler


class Norms(Passes):
    """What the engine measures of its shards."""

    sampler: Sampler
    shards: Shards
    _last_loss_scale: float

    @property
    def moved(self) -> tuple[float, float]:
        """How far the last sample, and the mixture it ended in, lie from theta_t. Every rank must call it."""
        return self._global_norm(self.sampler.moved[0]), self._global_norm(self.sampler.moved[1])

    @property
    def parts(self) -> tuple[float, float]:
        """Norms of the drift and of the noise of a sample, means over those of this outer step. Every rank must call it."""
        drifts, noises = ([self._global_norm(square) for square in squares] for squares in self.sampler.parts)
        return sum(drifts) / len(drifts), sum(noises) / len(noises)

    @property
    def gradient_norm(self) -> float | None:
        """Global norm of the last update's gradient before clipping; None where DeepSpeed computes none (ZeRO-0 in fp32)."""
        norm = self.ds.get_global_grad_norm()
        # Only ZeRO-0 in fp16 leaves the loss scale in.
        return None if norm is None else float(norm) / (self._last_loss_scale if self._scales_itself else 1.0)

    @property
    def _scales_itself(self) -> bool:
        """Whether fp16 losses must be multiplied by the loss scale here: DeepSpeed 0.19 forgets to at ZeRO-0, and
        divides the gradients by it all the same."""
        return bool(self.ds.fp16_enabled() and not self.ds.zero_optimization())

    def _global_norm(self, square: float) -> float:
        """Root of the sum over ranks of the squares of what each holds alone."""
        total = torch.tensor(square, dtype=torch.float64, device=self.device)
        return float(total if self.shards.replicated else all_reduce_sum(total)) ** 0.5
