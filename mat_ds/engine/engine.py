"""Implements the engine that methods see (`mat_ds.methods.base.Engine`) with DeepSpeed, for any ZeRO stage and precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Tensor, nn

from mat_ds.engine.exact import exact_values
from mat_ds.engine.flat import FlatUpdates
from mat_ds.engine.gathering import Gathering
from mat_ds.engine.graphs import Capture
from mat_ds.engine.loss_scale import judge_by_norm
from mat_ds.engine.mesh import initialize
from mat_ds.engine.shards import Shards, numel, parameter_groups
from mat_ds.engine.startup import release
from mat_ds.engine.updates import Updates
from mat_ds.engine.zero import read_zero
from mat_ds.errors import Interrupted, NonFiniteError, SaveError
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.depth import step_sizes
from mat_ds.models.options import Gather
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.chains import ONE_CHAIN, Chains
from mat_ds.ranks.collectives import all_reduce_sum, any_rank, world_size
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.noise_kernel import agreed_kernel
from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.sampler import Sampler
from mat_ds.sampling.step_kernel import agreed_step
from mat_ds.tasks.kinds.outputs import Read, read_output


class Engine(Updates):
    """Runs a method's outer steps on a sharded model; `mat_ds.methods.base.Engine` documents what methods call.

    Args:
        model: a transformers model in fp32 on the CPU, or sharded by `shard_unread`; DeepSpeed takes it over.
        optimizer: the sampler's hyper-parameters.
        chain: samples, mixture and noise of the parameters in one outer step.
        ds_config: a complete DeepSpeed configuration (`mat_ds.runs.ds_config.complete`).
        seed: the run's seed.
        read: extracts the predictions, one per sample, from the model's output and its inputs.
        chains: how the ranks are divided; each chain has its own batch, of an equal share of the global one.
        gather: what ZeRO-3 makes whole at a time in passes without gradients of the weights (`mat_ds.engine.gathering`).
        capture: see `Passes`.

    Attributes:
        gathers: what it does: `layer` or `model`; None below ZeRO-3.
    """

    def __init__(
        self, model: nn.Module, optimizer: OptimizerConfig, chain: Chain, ds_config: dict[str, Any], seed: int,
        read: Read = read_output, chains: Chains = ONE_CHAIN, gather: Gather = "auto", capture: Capture | None = None,
    ):  # fmt: skip
        perturbation = EmbeddingPerturbation(model)
        self.sampler = Sampler(parameter_groups(model, optimizer), optimizer.name, chain, seed)
        # DeepSpeed makes its fp32 masters from weights that it has already cast to the compute dtype.
        exact, frozen = exact_values(model, read_zero(ds_config).dtype)
        ds = initialize(model, self.sampler, ds_config, chains)
        super().__init__(ds, perturbation, seed, read, capture)
        self.shards = Shards(ds, step_sizes(ds.module, optimizer), frozen, chains)
        if exact:
            self.shards.fill(exact)
        exact.clear()  # the whole model in fp32
        kernel = agreed_kernel(self.device) if chain.noise else None
        self.sampler.arm(self.shards.slices, self.device, kernel, chains, agreed_step(self.device, optimizer.name, chain))
        self._flat = FlatUpdates(ds, self.shards, self.sampler) if read_zero(ds_config).flat else None
        self._training_pass = ds.module if self._flat else ds
        judge_by_norm(ds)
        gathering = Gathering(ds, gather)
        self.gathers, self._hold, self._release = gathering.used, gathering.hold, gathering.release
        self._backwards_per_update = self.ds.gradient_accumulation_steps()
        self._looks_at_gradients = self.dtype != torch.float32 or self.ds.zero_optimization()
        self._applied, self.skipped_since_begin, self._last_loss_scale = True, 0, 1.0

    # What the loop calls.

    def begin(
        self, outer_step: int, lr: float, done: float = 0.0, watch: bool = False, meets: bool = True, keeps: bool = False
    ) -> None:
        """Starts an outer step.

        Args:
            outer_step: t, counted from 0 over the whole run; part of the key of every random draw.
            lr: learning rate of all samples of the step, of which a parameter has its share (`step_sizes`).
            done: fraction of the run's outer steps before this one.
            watch: whether `moved` and `parts` will be read after it; costs a copy of this rank's shards.
            meets: whether the chains of the run, if there are several, meet at its end.
            keeps: whether `weights_of_chain` will be entered after it; costs a copy of this rank's shards.
        """
        self._outer_step, self.skipped_since_begin = outer_step, 0
        self.sampler.begin(outer_step, lr, done, watch, meets, keeps)

    def meet(self, outer_step: int) -> None:
        """Lets chains that are apart meet after an outer step at whose end they did not. Every rank must call it."""
        if self.sampler.meeting.apart:
            self.sampler.begin(outer_step, 0.0)
            for master in self.shards.slices:
                self.sampler.commit(master)
            self.shards.refresh()

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
        with torch.no_grad(), self._whole():
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
        self._release()
        self.ds.destroy()
        release()

    # What methods call; documented in `mat_ds.methods.base.Engine`.

    @overload
    def backward(self, loss: Tensor) -> None: ...
    @overload
    def backward(self, loss: Tensor, delta: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Tensor | None:
        self._release()
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
        gradient = gradient.float()
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

    @contextmanager
    def weights_of_chain(self, chain: int) -> Iterator[None]:
        """Within this context the parameters on all ranks are those that a chain came to in this outer step before the chains
        met; needs `begin(keeps=True)`. Every rank must enter it.

        Args:
            chain: counted from 0.
        """
        before = self.sampler.meeting.put(chain)
        self.shards.refresh()
        try:
            yield
        except (Interrupted, SaveError):  # as in `averaged_weights`
            self._restore(before)
            raise
        self._restore(before)

    @torch.no_grad()
    def _restore(self, before: Mapping[Tensor, Tensor]) -> None:
        for master, value in before.items():
            master.copy_(value)
        self.shards.refresh()

    def _swap(self, name: str) -> None:
        self.sampler.swap(name)
        self.shards.refresh()
