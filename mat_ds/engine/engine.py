"""The engine: the vocabulary of `mat_ds.methods.base` on a DeepSpeed engine of any ZeRO stage and precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, overload

import deepspeed
import torch
from torch import Tensor, nn

from mat_ds.engine.norms import Norms
from mat_ds.engine.shards import Shards, exact_values, numel, shape
from mat_ds.engine.startup import release
from mat_ds.errors import Interrupted, NonFiniteError, SaveError
from mat_ds.methods.base import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.ranks.collectives import all_reduce_sum, any_rank, world_size
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.sampler import Sampler
from mat_ds.tasks.kinds.base import read_output

# A loss scale that can fall at all has fallen from 2^32 to 1 by then; a static one, or ZeRO-0's at its minimum, never will.
MOST_SKIPS = 64


class Engine(Norms):
    """Runs a method's outer steps on a sharded model; see `mat_ds.methods.base.Engine` for the words methods use.

    Args:
        model: a transformers model with a classification head, in fp32 on the CPU or sharded; DeepSpeed takes it over.
        optimizer: the sampler's hyper-parameters.
        chain: samples, mixture and noise of the parameters in one outer step.
        ds_config: a complete DeepSpeed configuration (`mat_ds.engine.ds_config.complete`).
        seed: the run's seed.
        read: takes the answers, (B, ...), out of what the model returns.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig,
        chain: Chain,
        ds_config: dict[str, Any],
        seed: int,
        read: Callable[[Any], Tensor] = read_output,
    ):
        self.skipped_since_begin = 0
        perturbation = EmbeddingPerturbation(model)
        self.sampler = Sampler(_parameter_groups(model, optimizer), optimizer.name, chain, seed)
        # DeepSpeed takes its fp32 masters from weights it has already cast to the compute dtype.
        halved = any(ds_config.get(section, {}).get("enabled") for section in ("fp16", "bf16"))
        exact = exact_values(model) if halved else {}
        ds, *_ = deepspeed.initialize(model=model, optimizer=self.sampler, config=ds_config)
        super().__init__(ds, perturbation, seed, read)
        self.shards = Shards(ds)
        if exact:
            self.shards.fill(exact)
        self.sampler.arm(self.shards.slices, self.device)
        self._backwards_per_update = self.ds.gradient_accumulation_steps()
        self._looks_at_gradients = self.dtype != torch.float32 or self.ds.zero_optimization()
        self._applied = True
        self._last_loss_scale = 1.0

    # What the loop says.

    def begin(self, outer_step: int, lr: float, done: float = 0.0, watch: bool = False) -> None:
        """Starts an outer step: its number is part of every key, its learning rate holds for all its samples.

        Args:
            outer_step: t, counted from 0 over the whole run.
            lr: step size of the parameters.
            done: share of the run's outer steps before this one.
            watch: whether `moved` is wanted after it; costs a copy of this rank's shards.
        """
        self._outer_step, self.skipped_since_begin = outer_step, 0
        self.ds.module.train()
        self.sampler.begin(outer_step, lr, done, watch)

    def end(self, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Ends an outer step. Here the host waits for the device, and else only where DeepSpeed itself looks at a gradient.

        Args:
            measured: scalars of this rank.

        Returns:
            Their means over the ranks.

        Raises:
            NonFiniteError: on every rank, if a loss or a gradient of a perturbation was not finite on any.
        """
        *sums, broken = all_reduce_sum(torch.stack([*measured.values(), ~self._all_finite]).double()).tolist()
        if broken:
            raise self._not_finite("a loss or a perturbation's gradient")
        return {name: value / world_size() for name, value in zip(measured, sums, strict=True)}

    def predict(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits (B, C) without dropout or graph. Under ZeRO-3 every rank must call it."""
        self.ds.module.eval()
        with torch.no_grad():
            return self._read(self.ds.module(**inputs))

    @property
    def parameters(self) -> int:
        """Elements of all parameters, frozen ones included."""
        return sum(numel(parameter) for parameter in self.ds.module.parameters())

    def check(self, batch: MicroBatch | None) -> None:
        """Makes sure, before anything of this state is kept, that it is one: no loss after the last update has shown it.

        Every rank must call it.

        Args:
            batch: what to predict; None where a pass has just been left half done.

        Raises:
            NonFiniteError: on every rank, if a parameter, moment or average is not finite, or a prediction of `batch` is not.
        """
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        if batch is not None:
            finite &= self.predict(batch.inputs).isfinite().all()
        finite &= self.sampler.finite()
        if any_rank(not bool(finite), self.device):
            raise NonFiniteError(f"parameters, moments, averages or predictions not finite after outer step {self._outer_step}")

    def close(self) -> None:
        """Lets go of DeepSpeed's hooks and buffers."""
        self.ds.destroy()
        release()

    # What methods say.

    @overload
    def backward(self, loss: Tensor) -> None: ...
    @overload
    def backward(self, loss: Tensor, delta: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Tensor | None:
        self._all_finite &= loss.detach().isfinite()
        self._tracked = False
        scaled = loss / self._backwards_per_update
        self._last_loss_scale = float(self.ds.optimizer.loss_scale) if self.ds.fp16_enabled() else 1.0
        if self._scales_itself:
            scaled = scaled * self._last_loss_scale
        self.ds.backward(scaled, scale_wrt_gas=False)
        if delta is None:
            return None
        gradient, delta.grad = delta.grad, None
        assert gradient is not None
        if self.dtype != torch.float16:
            self._all_finite &= gradient.isfinite().all()
        # Where fp16 overflowed, the parameters' gradient did too: this update will be skipped and drawn again.
        return torch.nan_to_num(gradient / self._last_loss_scale, 0.0, 0.0, 0.0) * self._backwards_per_update

    @contextmanager
    def averaged_weights(self, name: str) -> Iterator[None]:
        """Passes within it are made with a running average of the parameters.

        Raises:
            RuntimeError: if a graph is alive: its backward would be of the wrong parameters.
        """
        if self._tracked:
            raise RuntimeError("averaged_weights() between a forward and its backward would change what the backward sees")
        self._swap(name)
        try:
            yield
        except (Interrupted, SaveError):  # every rank; a pass that fails on one alone has no other come to gather the weights
            self._swap(name)
            raise
        self._swap(name)

    def _swap(self, name: str) -> None:
        self.sampler.swap(name)
        self.shards.refresh()

    def update(self) -> None:
        """One sample of the parameters.

        DeepSpeed skips an update whose gradient is not finite on some rank, and says so on all of them; then, and without ZeRO
        in fp32, where it does not look, the losses are asked for.

        Raises:
            NonFiniteError: on every rank, if a loss was not finite on any rank (before the parameters are touched), or if
                the gradient was not and no fp16 loss scale explains it.
        """
        if not self._looks_at_gradients:
            self._refuse_losses()
        try:
            self.ds.step()
        except Exception as error:  # DeepSpeed raises a bare Exception when the loss scale cannot fall any further
            if "loss scale already at minimum" not in str(error):
                raise
            raise NonFiniteError(f"fp16 gradients overflow at the smallest loss scale: {error}") from error
        self._applied = self.ds.was_step_applied()
        if not self._applied:
            self._refuse_losses()
            if self.dtype != torch.float16:
                raise self._not_finite("a gradient")
        self.shards.forget_gradients()

    def _refuse_losses(self) -> None:
        if all_reduce_sum((~self._all_finite).float()).item():
            raise self._not_finite("a loss")

    def _not_finite(self, what: str) -> NonFiniteError:
        return NonFiniteError(f"{what} was not finite in outer step {self._outer_step}")

    def inner_steps(self) -> Iterator[int]:
        """Rule for fp16: a sample whose gradient overflowed is drawn again with the lowered loss scale, its masks and
        its noise unchanged, so an outer step always commits a mixture of exactly K samples."""
        self.leave_if_told()  # theta is still theta_t
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


def _parameter_groups(model: nn.Module, optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices only: vectors are biases and norms."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": optimizer.lr, "betas": optimizer.betas, "alpha": optimizer.rmsprop_alpha, "eps": optimizer.eps}
    groups = (
        {"params": [p for p in trainable if len(shape(p)) > 1], "weight_decay": optimizer.weight_decay, **common},
        {"params": [p for p in trainable if len(shape(p)) <= 1], "weight_decay": 0.0, **common},
    )
    return [group for group in groups if group["params"]]
