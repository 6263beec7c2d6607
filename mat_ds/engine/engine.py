"""The engine: the vocabulary of `mat_ds.methods.base` on a DeepSpeed engine of any ZeRO stage and precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from mat_ds.config.schema import OptimizerConfig
from mat_ds.engine.distributed import any_rank
from mat_ds.engine.shards import exact_values, fill_masters, numel, read_shards, shape
from mat_ds.engine.startup import release
from mat_ds.errors import NonFiniteError
from mat_ds.methods.base import Masks, MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.keys import Part, generator, seed_from
from mat_ds.sampling.sampler import Sampler

# A loss scale that can fall at all has fallen from 2^32 to 1 by then; a static one, or ZeRO-0's at its minimum, never will.
MOST_SKIPS = 64


class Engine:
    """Runs a method's outer steps on a sharded model; see `mat_ds.methods.base.Engine` for the words methods use.

    Args:
        model: a transformers model with a classification head, in fp32 on the CPU or sharded; DeepSpeed takes it over.
        optimizer: the sampler's hyper-parameters.
        chain: samples, mixture and noise of the parameters in one outer step.
        ds_config: a complete DeepSpeed configuration (`mat_ds.engine.ds_config.complete`).
        seed: the run's seed.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerConfig, chain: Chain, ds_config: dict[str, Any], seed: int):
        self.seed = seed
        self.skipped_since_begin = 0
        self._perturbation = EmbeddingPerturbation(model)
        self.sampler = Sampler(_parameter_groups(model, optimizer), optimizer.name, chain, seed)
        # DeepSpeed takes its fp32 masters from weights it has already cast to the compute dtype.
        halved = any(ds_config.get(section, {}).get("enabled") for section in ("fp16", "bf16"))
        exact = exact_values(model) if halved else {}
        self.ds, *_ = deepspeed.initialize(model=model, optimizer=self.sampler, config=ds_config)
        self.device = torch.device(self.ds.device)
        self.shards = read_shards(self.ds)
        if exact:
            fill_masters(self.shards, exact)
        self.sampler.arm(self.shards, self.device)
        self._outer_step = 0
        self._backwards_per_update = self.ds.gradient_accumulation_steps()
        self._all_finite = torch.ones((), dtype=torch.bool, device=self.device)
        self._applied = True
        self._last_loss_scale = 1.0

    # What the loop says.

    def begin(self, outer_step: int, lr: float) -> None:
        """Starts an outer step: its number is part of every key, its learning rate holds for all its samples."""
        self._outer_step, self.skipped_since_begin = outer_step, 0
        self.ds.module.train()
        self.sampler.begin(outer_step, lr)

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) without dropout or graph. Under ZeRO-3 every rank must call it."""
        self.ds.module.eval()
        with torch.no_grad():
            return self.ds.module(**inputs).logits

    @property
    def parameters(self) -> int:
        """Elements of all parameters, frozen ones included."""
        return sum(numel(parameter) for parameter in self.ds.module.parameters())

    def check(self, batch: MicroBatch) -> None:
        """Makes sure, before anything of this state is kept, that it is one. Every rank must call it.

        The last update of an outer step is followed by no loss that would show what it did, and ZeRO-0 in fp32 looks at no
        gradient either.

        Raises:
            NonFiniteError: on every rank, if a parameter is not finite, or a prediction of `batch` is not.
        """
        finite = bool(self.predict(batch.inputs).isfinite().all())
        for master, pieces in self.shards.items():
            for piece in pieces:
                finite &= bool(master.detach().view(-1)[piece.start : piece.start + piece.numel].sum().isfinite())
        if any_rank(not finite, self.device):
            raise NonFiniteError(f"the parameters or their predictions are not finite after outer step {self._outer_step}")

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: fp32, bf16 or fp16."""
        return torch.float16 if self.ds.fp16_enabled() else torch.bfloat16 if self.ds.bfloat16_enabled() else torch.float32

    @property
    def gradient_norm(self) -> float | None:
        """Global norm of the last update's gradient before clipping; None where DeepSpeed computes none (ZeRO-0 in fp32)."""
        norm = self.ds.get_global_grad_norm()
        if norm is None:
            return None
        # Only ZeRO-0 in fp16 leaves the loss scale in.
        return float(norm) / (self._last_loss_scale if self._scales_itself else 1.0)

    @property
    def _scales_itself(self) -> bool:
        """Whether fp16 losses must be multiplied by the loss scale here: DeepSpeed 0.19 forgets to at ZeRO-0, and
        divides the gradients by it all the same."""
        return bool(self.ds.fp16_enabled() and not self.ds.zero_optimization())

    def close(self) -> None:
        """Lets go of DeepSpeed's hooks and buffers."""
        self.ds.destroy()
        release()

    # What methods say.

    def forward(self, batch: MicroBatch, masks: Masks) -> Tensor:
        with self._dropout(batch, masks):
            return self.ds(**batch.inputs).logits

    def forward_pair(self, batch: MicroBatch, delta: Tensor, masks: Masks, share_masks: bool = False) -> tuple[Tensor, Tensor]:
        # One pass over both halves is faster and gives ZeRO one graph; equal masks need two passes with one key.
        if share_masks:
            clean = self.forward(batch, masks)
            with self._perturbation.applied(delta):
                return clean, self.forward(batch, masks)
        twice = {name: torch.cat([value, value]) for name, value in batch.inputs.items()}
        with self._perturbation.applied(torch.cat([torch.zeros_like(delta), delta])), self._dropout(batch, masks):
            clean, perturbed = self.ds(**twice).logits.chunk(2)
        return clean, perturbed

    def probe(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        # Never through the engine's own forward: its hooks would take a gradient to delta for a training backward,
        # which raises at ZeRO-0, breaks the gradient buckets of ZeRO-2 and corrupts those of ZeRO-3 in silence.
        with self._perturbation.applied(delta), self._dropout(batch, masks):
            self._probed = self.ds.module(**batch.inputs).logits
        # Divergences are differences of predictions a half-precision logit cannot tell apart.
        self._probed_fp32 = self._probed.float()
        return self._probed_fp32

    def input_grad(self, loss: Tensor, delta: Tensor) -> Tensor:
        if self.dtype == torch.float16:
            # Each sample's backward starts from logit gradients of size one and is scaled back in fp32: whatever the size
            # of its loss, nothing under- or overflows. A second try at another scale would be a second backward over
            # one graph, which ZeRO-3 does not survive.
            (seed,) = torch.autograd.grad(loss, self._probed_fp32)
            size = seed.abs().amax(1, keepdim=True)
            unit = torch.where(size > 0, seed / size, 0.0).to(self._probed.dtype)
            (gradient,) = torch.autograd.grad(self._probed, delta, grad_outputs=unit)
            gradient = gradient * size.unsqueeze(-1)
        else:
            (gradient,) = torch.autograd.grad(loss, delta)
        self._all_finite &= gradient.isfinite().all()
        return gradient

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        return torch.randn(self._delta_shape(batch), generator=self._generator(batch, *name), device=self.device)

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        return torch.rand(self._delta_shape(batch), generator=self._generator(batch, *name), device=self.device) * 2 - 1

    def backward(self, loss: Tensor) -> None:
        self._all_finite &= loss.detach().isfinite()
        loss = loss / self._backwards_per_update
        if self._scales_itself:
            self._last_loss_scale = float(self.ds.optimizer.loss_scale)
            loss = loss * self._last_loss_scale
        self.ds.backward(loss, scale_wrt_gas=False)

    def update(self) -> None:
        """One sample of the parameters.

        Raises:
            NonFiniteError: on every rank, if a loss was not finite on any rank (before the parameters are touched), or if
                the gradient was not and no fp16 loss scale explains it.
        """
        if any_rank(not bool(self._all_finite), self.device):
            raise NonFiniteError(f"a loss was not finite in outer step {self._outer_step}")
        try:
            self.ds.step()
        except Exception as error:  # DeepSpeed raises a bare Exception when the loss scale cannot fall any further
            if "loss scale already at minimum" not in str(error):
                raise
            raise NonFiniteError(f"fp16 gradients overflow at the smallest loss scale: {error}") from error
        self._applied = self.ds.was_step_applied()
        if not self._applied and self.dtype != torch.float16:
            raise NonFiniteError(f"a gradient was not finite in outer step {self._outer_step}")
        self._forget_gradients()

    def inner_steps(self, count: int) -> Iterator[int]:
        """Rule for fp16: a sample whose gradient overflowed is drawn again with the lowered loss scale, its masks and
        its noise unchanged, so an outer step always commits a mixture of exactly `count` samples."""
        k = skipped_in_a_row = 0
        while k < count:
            yield k
            if self._applied:
                k, skipped_in_a_row = k + 1, 0
                continue
            self.skipped_since_begin += 1
            skipped_in_a_row += 1
            if skipped_in_a_row == MOST_SKIPS:
                raise NonFiniteError(f"fp16 gradients overflowed {MOST_SKIPS} times in a row")

    # Randomness.

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
            torch.manual_seed(seed_from(self.seed, self._outer_step, "dropout", batch.index, *masks))
            yield

    def _generator(self, batch: MicroBatch, *name: Part) -> torch.Generator:
        return generator(self.device, self.seed, self._outer_step, *name, batch.index)

    def _delta_shape(self, batch: MicroBatch) -> tuple[int, int, int]:
        examples, length = batch.inputs["input_ids"].shape
        return examples, length, self._perturbation.width

    # DeepSpeed.

    def _forget_gradients(self) -> None:
        """Zeroes what ZeRO-3 and offload keep: they would reuse it for a parameter that gets no gradient next time."""
        kept = [getattr(self.ds.optimizer, "grad_partitions_flat_buffer", None)]
        kept += [master.grad for master in self.sampler.masters]
        for gradient in kept:
            if gradient is not None:
                gradient.zero_()


def _parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices only: vectors are biases and norms."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": optimizer.lr, "betas": optimizer.betas, "eps": optimizer.eps}
    groups = (
        {"params": [p for p in trainable if len(shape(p)) > 1], "weight_decay": optimizer.weight_decay, **common},
        {"params": [p for p in trainable if len(shape(p)) <= 1], "weight_decay": 0.0, **common},
    )
    return [group for group in groups if group["params"]]
