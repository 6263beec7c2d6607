"""Implements the engine that methods see (`mat_ds.methods.base.Engine`) with DeepSpeed, for any ZeRO stage and precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import deepspeed
import torch
from torch import Tensor, nn

from mat_ds.engine.ascent import climb
from mat_ds.engine.flat import FlatUpdates
from mat_ds.engine.loss_scale import judge_by_norm
from mat_ds.engine.norms import Norms
from mat_ds.engine.shards import Shards, exact_values, numel, parameter_groups
from mat_ds.engine.startup import release
from mat_ds.engine.zero import read_zero
from mat_ds.errors import Interrupted, NonFiniteError, SaveError
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.depth import step_sizes
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.collectives import all_reduce_sum, any_rank, world_size
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.noise_kernel import agreed_kernel
from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.sampler import Sampler
from mat_ds.tasks.kinds.outputs import Read, read_output

# Each skipped update halves a dynamic loss scale, and 32 of them take it from 2^32 to 1. If updates still overflow after twice
# as many, the loss scale is static, or is ZeRO-0's at its minimum, and will never fall.
MOST_SKIPS = 64


class Engine(Norms):
    """Runs a method's outer steps on a sharded model; `mat_ds.methods.base.Engine` documents what methods call.

    Args:
        model: a transformers model in fp32 on the CPU, or sharded by `shard_unread`; DeepSpeed takes it over.
        optimizer: the sampler's hyper-parameters.
        chain: samples, mixture and noise of the parameters in one outer step.
        ds_config: a complete DeepSpeed configuration (`mat_ds.runs.ds_config.complete`).
        seed: the run's seed.
        read: extracts the predictions, one per sample, from the model's output and its inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        chain: Chain,
        ds_config: dict[str, Any],
        seed: int,
        read: Read = read_output,
    ):
        perturbation = EmbeddingPerturbation(model)
        self.sampler = Sampler(parameter_groups(model, optimizer), optimizer.name, chain, seed)
        # DeepSpeed makes its fp32 masters from weights that it has already cast to the compute dtype.
        exact, frozen = exact_values(model, read_zero(ds_config).dtype)
        ds, *_ = deepspeed.initialize(model=model, optimizer=self.sampler, config=ds_config)
        super().__init__(ds, perturbation, seed, read)
        self.shards = Shards(ds, step_sizes(ds.module, optimizer), frozen)
        if exact:
            self.shards.fill(exact)
        exact.clear()  # the whole model in fp32
        self.sampler.arm(self.shards.slices, self.device, agreed_kernel(self.device) if chain.noise else None)
        self._flat = FlatUpdates(ds, self.shards, self.sampler) if read_zero(ds_config).flat else None
        self._training_pass = ds.module if self._flat else ds
        judge_by_norm(ds)
        self._backwards_per_update = self.ds.gradient_accumulation_steps()
        self._looks_at_gradients = self.dtype != torch.float32 or self.ds.zero_optimization()
        self._applied, self.skipped_since_begin, self._last_loss_scale = True, 0, 1.0

    # What the loop calls.

    def begin(self, outer_step: int, lr: float, done: float = 0.0, watch: bool = False) -> None:
        """Starts an outer step.

        Args:
            outer_step: t, counted from 0 over the whole run; part of the key of every random draw.
            lr: learning rate of all samples of the step, of which a parameter has its share (`step_sizes`).
            done: fraction of the run's outer steps before this one.
            watch: whether `moved` and `parts` will be read after it; costs a copy of this rank's shards.
        """
        self._outer_step, self.skipped_since_begin = outer_step, 0
        self.sampler.begin(outer_step, lr, done, watch)

    def end(self, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Ends an outer step. Every rank must call it.

        The host waits for the device here; before, it waits where DeepSpeed checks a gradient (at ZeRO-1 only in fp16).

        Args:
            measured: scalars of this rank, the same names on every rank.

        Returns:
            Their means over the ranks.

        Raises:
            NonFiniteError: on every rank, if a loss or a gradient was not finite on any.
        """
        found = [*measured.values(), ~self._all_finite, self.sampler.void.to(self.device)]
        *sums, broken, void = all_reduce_sum(torch.stack(found).double()).tolist()
        if broken or void:
            raise self._not_finite("a gradient" if not broken else "a loss or a perturbation's gradient")
        return {name: value / world_size() for name, value in zip(measured, sums, strict=True)}

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) without dropout or graph. Under ZeRO-3 every rank must call it."""
        self._set_training(False)
        with torch.no_grad():
            return self._read(self.ds.module(**inputs), inputs)

    @property
    def parameters(self) -> int:
        """Elements of all parameters, frozen ones included."""
        return sum(numel(parameter) for parameter in self.ds.module.parameters())

    def check(self, batch: MicroBatch | None) -> None:
        """Checks that the state after the last update is finite before it is saved, since no loss has been computed with it.

        Every rank must call it.

        Args:
            batch: predicted as part of the check; None to skip the prediction, as after an interrupted pass.

        Raises:
            NonFiniteError: on every rank, if a parameter, moment, average or prediction is not finite on any.
        """
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        if batch is not None:
            finite &= self.predict(batch.inputs).isfinite().all()
        finite &= self.sampler.finite()
        if any_rank(not bool(finite), self.device):
            raise NonFiniteError(f"parameters, moments, averages or predictions not finite after outer step {self._outer_step}")

    def close(self) -> None:
        """Removes DeepSpeed's hooks and frees its buffers."""
        self.ds.destroy()
        release()

    # What methods call; documented in `mat_ds.methods.base.Engine`.

    @overload
    def backward(self, loss: Tensor) -> None: ...
    @overload
    def backward(self, loss: Tensor, delta: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Tensor | None:
        self._all_finite &= loss.detach().isfinite()
        self._tracked = False
        self._set_training(self._dropped)  # layers whose activations were not kept compute them again
        scaled = loss / self._backwards_per_update
        self._last_loss_scale = float(self.ds.optimizer.loss_scale) if self.ds.fp16_enabled() else 1.0
        if self._scales_itself:
            scaled = scaled * self._last_loss_scale
        if self._flat is None:
            self.ds.backward(scaled, scale_wrt_gas=False)
        else:
            scaled.backward()
        if delta is None:
            return None
        gradient, delta.grad = delta.grad, None
        assert gradient is not None
        if self.dtype != torch.float16:
            self._all_finite &= gradient.isfinite().all()
        # If this gradient overflowed in fp16, so did the parameters': their update will be skipped and repeated.
        return torch.nan_to_num(gradient / self._last_loss_scale, 0.0, 0.0, 0.0) * self._backwards_per_update

    @contextmanager
    def averaged_weights(self, name: str) -> Iterator[None]:
        """Within this context the parameters are those of a running average. Every rank must enter it.

        Args:
            name: of the average in the chain.

        Raises:
            RuntimeError: between a forward and its backward, which would then see other parameters.
        """
        if self._tracked:
            raise RuntimeError("averaged_weights() between a forward and its backward would change what the backward sees")
        self._swap(name)
        try:
            yield
        except (Interrupted, SaveError):  # raised by every rank; after other errors, others may not join in swapping back
            self._swap(name)
            raise
        self._swap(name)

    def _swap(self, name: str) -> None:
        self.sampler.swap(name)
        self.shards.refresh()

    def update(self) -> None:
        """Draws one sample of the parameters from the gradients accumulated since the last one. Every rank must call it.

        With ZeRO or in half precision, it is skipped on all ranks if a gradient is not finite on any. In fp32 without ZeRO
        DeepSpeed does not check gradients, so the losses are checked here before.

        Raises:
            NonFiniteError: on every rank, if a loss was not finite on any; the parameters are left as they were. Also if a
                gradient was not, except in fp16, where the update is repeated with a lower loss scale. At ZeRO-1 in fp32 and
                bf16, `end` and `check` raise it instead; until then updates are skipped.
        """
        if not self._looks_at_gradients:
            self._refuse_losses()
        try:
            self._applied = self._step()
        except Exception as error:  # DeepSpeed raises a bare Exception when the loss scale cannot fall any further
            if "loss scale already at minimum" not in str(error):
                raise
            raise NonFiniteError(f"fp16 gradients overflow at the smallest loss scale: {error}") from error
        if self._applied:
            climb(self.sampler, self.shards, self.device)
        else:
            self._refuse_losses()
            if self.dtype != torch.float16:
                raise self._not_finite("a gradient")
        self.shards.forget_gradients()

    def _step(self) -> bool:
        """Makes an update, or skips it; whether it did."""
        if self._flat is not None:
            return self._flat.update()
        self.ds.step()
        return bool(self.ds.was_step_applied())

    def _refuse_losses(self) -> None:
        if all_reduce_sum((~self._all_finite).float()).item():
            raise self._not_finite("a loss")

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(f"{what} was not finite in outer step {self._outer_step}")

    def inner_steps(self) -> Iterator[int]:
        """Yields 0 .. K-1. In fp16 a sample whose gradient overflowed is repeated with the lowered loss scale and the same
        dropout masks and noise, so that an outer step always commits a mixture of exactly K samples. Raises, on every rank,
        `Interrupted` before the first sample if the run is to stop, and `NonFiniteError` if too many in a row overflow.
        """
        self.leave_if_told()  # here, because theta is still theta_t
        k = skipped_in_a_row = 0
        while k < self.sampler.chain.samples:
            yield k
            if self._applied:
                k, skipped_in_a_row = k + 1, 0
                continue
            self.skipped_since_begin += 1
            skipped_in_a_row += 1
            if skipped_in_a_row == MOST_SKIPS:
                raise NonFiniteError(f"fp16 gradients overflowed {MOST_SKIPS} times in a row")
