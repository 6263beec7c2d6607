"""ZeRO-1's updates, without DeepSpeed's bookkeeping: one reduce-scatter, the sampler's step, one gather.

DeepSpeed still partitions the parameters and keeps masters and weights; loading, checkpoints and exports do not know of this
module. What it does after each backward is left out: gradients accumulate in one flat buffer for each parameter group, of which
each parameter's `.grad` is a view. The host never waits to know whether a gradient is finite, except in fp16, where the loss
scale depends on it.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor
from torch.nn.utils import get_total_norm

from mat_ds.engine.shards import Shards
from mat_ds.ranks.collectives import all_reduce_sum, reduce_scatter_sum, world_size
from mat_ds.sampling.sampler import Sampler


class FlatUpdates:
    """Accumulates gradients and makes updates at ZeRO stage 1 (`mat_ds.engine.zero.Zero.flat`).

    Args:
        ds: the engine just initialised; its own `backward` and `step` must not be called any more.
        shards: its masters.
        sampler: armed.

    Attributes:
        norm: global norm of the last update's gradient before clipping, on the device.
    """

    def __init__(self, ds: DeepSpeedEngine, shards: Shards, sampler: Sampler):
        self._shards, self._sampler, self._groups = shards, sampler, shards.take_gradients()
        self._gradients = [torch.zeros_like(group.weights) for group in self._groups]
        for group, gradient in zip(self._groups, self._gradients, strict=True):
            for parameter, begin in group.parameters:
                parameter.grad = gradient[begin : begin + parameter.numel()].view_as(parameter)
        self.norm = torch.zeros((), device=ds.device)
        # fp16's, which DeepSpeed configures and checkpoints contain; None in other precisions.
        self._loss_scaler: Any = ds.optimizer.loss_scaler if ds.fp16_enabled() else None
        self._max_norm, self._sent = float(ds.gradient_clipping()), ds.communication_data_type
        # By what gradients are divided before they are summed; what is missing to their mean is made up for afterwards.
        self._divisor = float(ds.gradient_predivide_factor() if ds.postscale_gradients() else world_size(shards.chains.inside))

    @torch.no_grad()
    def update(self) -> bool:
        """Draws one sample from the gradients accumulated since the last update. Every rank must call it.

        Returns:
            Whether it did; False only in fp16, if a gradient was not finite, which lowers the loss scale. In other precisions
            such a gradient makes this step of the sampler and all later ones void.

        Raises:
            Exception: if fp16's loss scale cannot be lowered; as DeepSpeed does.
        """
        own = [self._own_gradient(gradient) for gradient in self._gradients]
        factor = (
            self._divisor
            / world_size(self._shards.chains.inside)
            / (self._loss_scaler.loss_scale if self._loss_scaler else 1.0)
        )
        for group, gradient in zip(self._groups, own, strict=True):
            group.master.grad = gradient
        self.norm = self._norm_of_sums() * factor
        applied = self._judge()
        if applied:
            clipping = (self._max_norm / (self.norm + 1e-6)).clamp(max=1.0) if self._max_norm else None
            for gradient in own:
                if clipping is not None or factor != 1.0:
                    gradient.mul_(factor if clipping is None else factor * clipping)
            self._sampler.step()
            self._shards.refresh()
        for group, whole in zip(self._groups, self._gradients, strict=True):
            group.master.grad = None
            whole.zero_()
        return applied

    def _own_gradient(self, whole: Tensor) -> Tensor:
        """This rank's part of the sum over the ranks, in fp32."""
        if self._divisor != 1.0:
            whole.div_(self._divisor)
        return reduce_scatter_sum(whole.to(self._sent), self._shards.chains.inside).float()

    def _norm_of_sums(self) -> Tensor:
        """Norm of all ranks' parts of the gradients, in fp64."""
        pieces = [
            master.grad[piece.start : piece.start + piece.numel]
            for master, slices in self._shards.slices.items()
            if master.grad is not None
            for piece in slices
        ]
        square = get_total_norm(pieces).to(self.norm.device).double().square()
        return all_reduce_sum(square, self._shards.chains.inside).sqrt()

    def _judge(self) -> bool:
        """Whether to make the update."""
        if self._loss_scaler is None:
            self._sampler.void.logical_or_(~self.norm.isfinite())
            return True
        finite = bool(self.norm.isfinite())
        self._loss_scaler.update_scale(not finite)
        return finite
