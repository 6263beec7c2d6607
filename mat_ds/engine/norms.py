"""Norms over all ranks: of an update's gradient, and of the parameters' moves by drift and by noise."""

from __future__ import annotations

import torch

from mat_ds.engine.flat import FlatUpdates
from mat_ds.engine.passes import Passes
from mat_ds.engine.shards import Shards
from mat_ds.ranks.collectives import all_reduce_sum, world_size
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.watched import Watched


class Norms(Passes):
    """The part of the engine that measures gradients and moves of the parameters."""

    sampler: Sampler
    shards: Shards
    _flat: FlatUpdates | None
    _last_loss_scale: float

    @property
    def moved(self) -> tuple[float, float]:
        """Distances of the last sample and of theta_{t+1} from theta_t; needs `begin(watch=True)`. Every rank must call it."""
        by_chain, committed = self._watched.moved
        return self._global_norm(by_chain), self._global_norm(committed)

    @property
    def parts(self) -> tuple[float, float]:
        """Norms of drift and noise, means over the samples of this outer step; needs `begin(watch=True)`. Every rank must call
        it."""
        squares = self._watched.drifts, self._watched.noises
        drifts, noises = ([self._global_norm(square) for square in part] for part in squares)
        return sum(drifts) / len(drifts), sum(noises) / len(noises)

    @property
    def spread(self) -> dict[str, float]:
        """`chains_apart`, the root mean square over the chains of the distance of what each came to from their mean: the spread
        of the mixed strategy. Empty with one chain; needs `begin(watch=True)`. Every rank must call it."""
        if self.shards.chains.count == 1:
            return {}
        square = torch.tensor(self._watched.apart, dtype=torch.float64, device=self.device)
        share = 1 / (world_size() if self.shards.replicated else self.shards.chains.count)
        return {"chains_apart": float(all_reduce_sum(square) * share) ** 0.5}

    @property
    def _watched(self) -> Watched:
        assert self.sampler.watched
        return self.sampler.watched

    @property
    def gradient_norm(self) -> float | None:
        """Global norm of the last update's gradient before clipping; None if DeepSpeed does not compute it (ZeRO-0, fp32)."""
        if self._flat is not None:
            return float(self._flat.norm)
        norm = self.ds.get_global_grad_norm()
        # Only at ZeRO-0 in fp16 does DeepSpeed's norm include the loss scale.
        return None if norm is None else float(norm) / (self._last_loss_scale if self._scales_itself else 1.0)

    @property
    def _scales_itself(self) -> bool:
        """Whether fp16 losses must be multiplied by the loss scale here: where DeepSpeed's `backward` is not called, and at
        ZeRO-0, where DeepSpeed 0.19 does not do it, but still divides the gradients by it."""
        return bool(self.ds.fp16_enabled() and (self._flat is not None or not self.ds.zero_optimization()))

    def _global_norm(self, square: float) -> float:
        """Norm of a vector distributed over the ranks, from the squared norm of this rank's part."""
        total = torch.tensor(square, dtype=torch.float64, device=self.device)
        return float(total if self.shards.replicated else all_reduce_sum(total, self.shards.chains.inside)) ** 0.5
