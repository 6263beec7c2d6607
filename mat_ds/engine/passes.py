"""Passes through a DeepSpeed model: every forward and input gradient a method asks for, their dropout and their noise."""

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
from mat_ds.sampling.keys import Part, dropout_seed, noise_key
from mat_ds.tasks.kinds.base import read_output


class Passes:
    """The half of `mat_ds.methods.base.Engine` that changes no parameter.

    Args:
        ds: the engine just initialised.
        perturbation: of the word embeddings of its model.
        seed: the run's seed.
        read: takes the answers, (B, ...), out of what the model returns.
    """

    def __init__(
        self, ds: DeepSpeedEngine, perturbation: EmbeddingPerturbation, seed: int, read: Callable[[Any], Tensor] = read_output
    ):
        self.ds, self.seed, self._read = ds, seed, read
        self.device = torch.device(ds.device)
        self._perturbation = perturbation
        self._outer_step = 0
        self._all_finite = torch.ones((), dtype=torch.bool, device=self.device)
        # Graphs that a backward has yet to consume.
        self._tracked = False
        # Asked once an outer step, between the perturbation's loop and the parameters'.
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
        # One pass over both halves is faster and gives ZeRO one graph; equal masks need two passes with one key.
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
        # Divergences are differences of predictions a half-precision logit cannot tell apart.
        return self._inner(batch, masks, delta).float()

    def _inner(self, batch: MicroBatch, masks: Masks, delta: Tensor | None) -> Tensor:
        """Logits through the module alone, in the compute dtype.

        Never through the engine's own forward: its hooks would take a gradient to delta for a training backward, which raises
        at ZeRO-0, breaks the gradient buckets of ZeRO-2 and corrupts those of ZeRO-3 in silence.
        """
        with self._perturbation.applied(delta), self._dropout(batch, masks):
            return self._read(self.ds.module(**batch.inputs))

    @torch.no_grad()
    def realised(self, batch: MicroBatch, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x and (x + delta) - x as the compute dtype has them, each (B, L, H) in fp32."""
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
            # Each sample's backward starts from logit gradients of size one and is scaled back in fp32: whatever the size
            # of its loss, nothing under- or overflows. A second try at another scale would be a second backward over
            # one graph, which ZeRO-3 does not survive.
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
        return self._drawn(philox.normal, batch, name)

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        return self._drawn(philox.uniform, batch, name)

    def _drawn(self, law: Callable[..., Tensor], batch: MicroBatch, name: tuple[Part, ...]) -> Tensor:
        key = noise_key(self.seed, self._outer_step, *name)
        return law(key, batch.examples, batch.tokens, self._perturbation.width)

    @contextmanager
    def _dropout(self, batch: MicroBatch, masks: Masks) -> Iterator[None]:
        """Seeds the dropout of one pass from its key, or switches it off."""
        if masks is None:
            was_training = self.ds.module.training
            self.ds.module.eval()
            try:
                yield
            finally:
                self.ds.module.train(was_training)
        else:
            torch.manual_seed(dropout_seed(self.seed, self._outer_step, batch.index, masks))
            yield
