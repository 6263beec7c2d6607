"""Forward passes and input gradients of a DeepSpeed model, with keyed dropout and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.engine import DeepSpeedEngine
from torch import Tensor

from mat_ds.engine.graphs import Capture, Graphs
from mat_ds.methods.base import Masks
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.first_layer import FirstLayer
from mat_ds.models.packing import pack_doubled
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling import philox
from mat_ds.sampling.keys import Part, dropout_seed, noise_key
from mat_ds.tasks.kinds.outputs import Read, read_output


class Passes:
    """The part of `mat_ds.methods.base.Engine` that does not change parameters; see there for what methods call.

    Args:
        ds: the DeepSpeed engine.
        perturbation: adds delta to the word embeddings of its model.
        seed: the run's seed.
        read: extracts the predictions, one per sample, from the model's output and its inputs.
        capture: replays the passes of `probe` and `delta_gradient`, captured so, of a model without padding; None: makes them.
    """

    def __init__(
        self, ds: DeepSpeedEngine, perturbation: EmbeddingPerturbation, seed: int, read: Read = read_output,
        capture: Capture | None = None,
    ):  # fmt: skip
        self.ds, self.seed, self._read = ds, seed, read
        self.graphs = Graphs(self._pass, ds.module, capture) if capture else None
        # What makes the passes that a backward follows.
        self._training_pass: Callable[..., Any] = ds
        self.device = torch.device(ds.device)
        self._perturbation = perturbation
        # What dropout on this device draws from, and all else does; `torch.manual_seed` takes as long as a layer.
        self._generators = {torch.default_generator, get_accelerator().default_generator(self.device.index or 0)}
        self._outer_step = 0
        self._all_finite = torch.ones((), dtype=torch.bool, device=self.device)
        # Whether there is a graph whose backward has not been called yet, and whether the last one dropped units.
        self._tracked, self._dropped = False, True
        # Parameters whose gradients a training pass computes.
        self._trained = [parameter for parameter in ds.module.parameters() if parameter.requires_grad]
        # Make all parameters whole, if they are to be for passes without gradients of them, and divide them again.
        self._hold: Callable[[], None] = lambda: None
        self._release: Callable[[], None] = lambda: None
        # Called once per outer step, after the perturbation's loop and before the parameters'; may raise `Interrupted`.
        self.leave_if_told: Callable[[], None] = lambda: None

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: fp32, bf16 or fp16."""
        return torch.float16 if self.ds.fp16_enabled() else torch.bfloat16 if self.ds.bfloat16_enabled() else torch.float32

    def forward(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        self._release()
        self._tracked, self._dropped = True, masks is not None
        self._drop(batch, masks)
        with self._perturbation.applied(delta):
            return self._read(self._training_pass(**batch.inputs), batch.inputs)

    def forward_pair(
        self, batch: MicroBatch, delta: Tensor | None, masks: Masks, share_masks: bool = False, train_words: bool = True
    ) -> tuple[Tensor, Tensor]:
        # One pass over both halves is faster, and ZeRO sees a single graph. Equal masks need two passes with the same key.
        if share_masks:
            return self.forward(batch, masks), self.forward(batch, masks, delta)
        self._release()
        self._tracked, self._dropped = True, masks is not None
        both = None if delta is None else torch.cat([torch.zeros_like(delta), delta])
        frozen_from = None if train_words else batch.texts
        self._drop(batch, masks)
        pack_doubled(batch.inputs, batch.doubled)
        with self._perturbation.applied(both, frozen_from):
            clean, perturbed = self._read(self._training_pass(**batch.doubled), batch.doubled).chunk(2)
        return clean, perturbed

    @torch.no_grad()
    def probe(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        # In fp32, since divergences are computed from small differences of logits.
        return self._replayed(batch, masks, delta).float()

    def _replayed(self, batch: MicroBatch, masks: Masks, delta: Tensor | None) -> Tensor:
        """As `_inner`, in a graph if there are any."""
        if self.graphs is None:
            return self._inner(batch, masks, delta)
        self._drop(batch, masks)
        return self.graphs(batch.inputs, delta, lambda: self._drop(batch, masks))

    def _inner(self, batch: MicroBatch, masks: Masks, delta: Tensor | None) -> Tensor:
        """Predictions (B, ...) in the compute dtype."""
        self._drop(batch, masks)
        return self._pass(batch.inputs, delta)

    def _pass(self, inputs: dict[str, Tensor], delta: Tensor | None) -> Tensor:
        """Predictions from the module inside the DeepSpeed engine.

        Calling the engine instead would be wrong: its hooks take a later gradient with respect to delta for a training
        backward. At ZeRO-0 that raises, at ZeRO-2 it breaks the gradient buckets, and at ZeRO-3 it silently corrupts gradients.
        """
        with self._whole(), self._perturbation.applied(delta):
            return self._read(self.ds.module(**inputs), inputs)

    @torch.no_grad()
    def realised(self, batch: MicroBatch, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Word embeddings x, and the perturbation (x + delta) - x that is left of delta in the compute dtype; each (B, L, H)
        fp32."""
        with self._perturbation.recorded() as seen:
            self._inner(batch, None, delta)
        x, moved = seen
        return x, moved

    def delta_gradient(
        self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor], differentiable: bool = False
    ) -> Tensor:
        delta = delta.detach().requires_grad_()
        with nullcontext() if differentiable else self._frozen():
            logits = (self._inner if differentiable else self._replayed)(batch, masks, delta)
            with self.graphs.held() if self.graphs else nullcontext():
                gradient, size = self._gradient(logits, payoff, delta, differentiable)
            if self.graphs:
                gradient = gradient.clone()  # the next replay overwrites it
            if size is not None:
                of_each_text = size.repeat_interleave(len(gradient) // len(size))
                gradient = gradient * of_each_text.view(-1, 1, 1)
        self._all_finite &= gradient.isfinite().all()
        return gradient

    def _gradient(
        self, logits: Tensor, payoff: Callable[[Tensor], Tensor], at: Tensor, differentiable: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """d payoff / d at; in fp16 divided by a positive number for each sample, which comes second, (samples,) in fp32."""
        logits_fp32 = logits.float()
        total = payoff(logits_fp32).sum()
        if self.dtype != torch.float16:
            return torch.autograd.grad(total, at, create_graph=differentiable)[0], None
        # Each sample's backward starts from logit gradients with a largest entry of one and is scaled back in fp32, so
        # it neither underflows nor overflows. Trying again with another scale is not an option: ZeRO-3 does not support
        # a second backward through the same graph.
        (seed,) = torch.autograd.grad(total, logits_fp32)
        size = seed.abs().reshape(len(seed), -1).amax(1)
        a_sample = size.view(-1, *[1] * (seed.dim() - 1))
        unit = torch.where(a_sample > 0, seed / a_sample, 0.0).to(logits.dtype)
        return torch.autograd.grad(logits, at, grad_outputs=unit)[0], size

    def forward_split(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        with self._first_layer.kept() as kept:
            logits = self.forward(batch, masks, delta)
        return logits, kept[0]

    def first_layer_slope(self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor]) -> Tensor:
        with self._frozen():
            with self._first_layer.kept() as kept:
                logits = self._inner(batch, masks, delta.detach())
            slope = self._gradient(logits, payoff, kept[0])[0].float()
        self._all_finite &= slope.isfinite().all()
        return slope

    def first_layer_gradient(self, batch: MicroBatch, masks: Masks, delta: Tensor, slope: Tensor) -> Tensor:
        delta, size = delta.detach().requires_grad_(), slope.abs().max()
        # With a largest entry of one, as fp16 would lose small ones.
        unit = torch.where(size > 0, slope / size, 0.0)
        with self._frozen():
            output = self._first_layer.output_of(lambda: self._inner(batch, masks, delta))
            (gradient,) = torch.autograd.grad(output, delta, grad_outputs=unit.to(output.dtype))
        gradient = gradient * size
        self._all_finite &= gradient.isfinite().all()
        return gradient

    @cached_property
    def _first_layer(self) -> FirstLayer:
        return FirstLayer(self.ds.module)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """Within this context no parameter asks for a gradient. ZeRO-3's layers and compiled ones would compute those of the
        weights, and others would keep their inputs, also where a backward pass wants the gradient of delta alone. It covers
        that pass too, in which layers whose activations were not kept compute them again."""
        for parameter in self._trained:
            parameter.requires_grad_(False)
        try:
            with self._whole():
                yield
        finally:
            for parameter in self._trained:
                parameter.requires_grad_(True)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """For passes without gradients of the parameters: these may become whole, and then stay so after it, until a training
        pass or an update."""
        self._hold()
        try:
            yield
        except BaseException:
            self._release()
            raise

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        return self._drawn(philox.normal, batch, name)

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        return self._drawn(philox.uniform, batch, name)

    def _drawn(self, law: Callable[..., Tensor], batch: MicroBatch, name: tuple[Part, ...]) -> Tensor:
        key = noise_key(self.seed, self._outer_step, *name)
        return law(key, batch.examples, batch.tokens, self._perturbation.width)

    def _drop(self, batch: MicroBatch, masks: Masks) -> None:
        """Seeds dropout from the key of the pass that follows, or switches it off if `masks` is None."""
        self._set_training(masks is not None)
        if masks is not None:
            seed = dropout_seed(self.seed, self._outer_step, batch.index, masks)
            for generator in self._generators:
                generator.manual_seed(seed)

    def _set_training(self, on: bool) -> None:
        """Puts the model into training mode, or out of it, which takes as long as a layer: only if it is not so already."""
        if self.ds.module.training != on:
            self.ds.module.train(on)
