"""Forward passes and input gradients of a DeepSpeed model, with keyed dropout and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from mat_ds.methods.base import Masks, MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling import philox
from mat_ds.sampling.keys import Part, seed_from
from mat_ds.tasks.kinds.base import read_output


class Passes:
    """The part of `mat_ds.methods.base.Engine` that does not change parameters.

    Args:
        ds: the initialised DeepSpeed engine.
        perturbation: of its model's word embeddings.
        seed: of the run.
        read: extracts the logits (B, ...) from the model's output.
    """

    def __init__(
        self, ds: DeepSpeedEngine, perturbation: EmbeddingPerturbation, seed: int, read: Callable[[Any], Tensor] = read_output
    ):
        self.ds, self.seed, self._read = ds, seed, read
        self.device = torch.device(ds.device)
        self._perturbation = perturbation
        self._outer_step = 0
        self._all_finite = torch.ones((), dtype=torch.bool, device=self.device)
        # whether a training graph exists that no backward has consumed yet
        self._tracked = False
        # Called once per outer step, between the perturbation's loop and the parameters' loop.
        self.leave_if_told: Callable[[], None] = lambda: None

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: fp32, bf16 or fp16."""
        return torch.float16 if self.ds.fp16_enabled() else torch.bfloat16 if self.ds.bfloat16_enabled() else torch.float32

    def forward(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        self._tracked = True
        with self._perturbation.applied(delta), self._dropout(batch, masks):
            return self._read(self.ds(**batch.inputs))

    def forward_pair(
        self, batch: MicroBatch, delta: Tensor | None, masks: Masks, share_masks: bool = False, train_words: bool = True
    ) -> tuple[Tensor, Tensor]:
        # One pass over both halves is faster and gives ZeRO a single graph; equal masks need two passes with one key.
        if share_masks:
            return self.forward(batch, masks), self.forward(batch, masks, delta)
        self._tracked = True
        twice = {name: torch.cat([value, value]) for name, value in batch.inputs.items()}
        both = None if delta is None else torch.cat([torch.zeros_like(delta), delta])
        frozen_from = None if train_words else len(batch.labels)
        with self._perturbation.applied(both, frozen_from), self._dropout(batch, masks):
            clean, perturbed = self._read(self.ds(**twice)).chunk(2)
        return clean, perturbed

    @torch.no_grad()
    def probe(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        # in fp32: divergences are differences too small for half-precision logits
        return self._inner(batch, masks, delta).float()

    def _inner(self, batch: MicroBatch, masks: Masks, delta: Tensor | None) -> Tensor:
        """Logits from the inner module, in the compute dtype.

        Not from the engine's own forward: its hooks would treat a gradient with respect to delta as a training
            backward, which raises
        at ZeRO-0, breaks ZeRO-2's gradient buckets and silently corrupts ZeRO-3's gradients.
        """
        with self._perturbation.applied(delta), self._dropout(batch, masks):
            return self._read(self.ds.module(**batch.inputs))

    @torch.no_grad()
    def realised(self, batch: MicroBatch, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x and (x + delta) - x as rounded by the compute dtype, each (B, L, H) in fp32."""
        with self._perturbation.recorded() as seen:
            self.probe(batch, None, delta)
        x, moved = seen
        return x, moved

    def delta_gradient(
        self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor], differentiable: bool = False
    ) -> Tensor:
        delta = delta.detach().requires_grad_()
        logits = self._inner(batch, masks, delta)
        logits_fp32 = logits.float()
        total = payoff(logits_fp32).sum()
        if self.dtype == torch.float16:
            # Each sample's backward starts from logit gradients of size one and is scaled back in fp32, so that nothing under-
            # or overflows, whatever its loss. Retrying at another scale would need a second backward over the same graph, which
            # ZeRO-3 does not support.
            (seed,) = torch.autograd.grad(total, logits_fp32)
            size = seed.abs().reshape(len(seed), -1).amax(1)
            a_sample = size.view(-1, *[1] * (seed.dim() - 1))
            unit = torch.where(a_sample > 0, seed / a_sample, 0.0).to(logits.dtype)
            (gradient,) = torch.autograd.grad(logits, delta, grad_outputs=unit)
            gradient = gradient * size.view(-1, 1, 1)
        else:
            (gradient,) = torch.autograd.grad(total, delta, create_graph=differentiable)
        self._all_finite &= gradient.isfinite().all()
        return gradient

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        return philox.normal(self._key(*name), batch.examples, batch.tokens, self._perturbation.width)

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        return philox.uniform(self._key(*name), batch.examples, batch.tokens, self._perturbation.width)

    @contextmanager
    def _dropout(self, batch: MicroBatch, masks: Masks) -> Iterator[None]:
        """Seeds the dropout of one pass from its key, or disables dropout if `masks` is None."""
        if masks is None:
            was_training = self.ds.module.training
            self.ds.module.eval()
            try:
                yield
            finally:
                self.ds.module.train(was_training)
        else:
            torch.manual_seed(seed_from(self.seed, self._outer_step, "dropout", batch.index, *masks))
            yield

    def _key(self, *name: Part) -> int:
        """The key of all random numbers of one name in this outer step."""
        return seed_from(self.seed, self._outer_step, *name)
