"""Runs one outer step of a method on the meta device, to count its passes, their memory and their computation.

The method's own `step` is called, with an engine whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mat_ds.engine.passes import Passes
from mat_ds.methods.base import Masks, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.planning.counts import PassCounts
from mat_ds.planning.live import Live, gpu_kernels
from mat_ds.sampling.keys import Part
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Read, read_output

META = torch.device("meta")
INPUTS = ("input_ids", "attention_mask")


class StandIn:
    """The part of a DeepSpeed engine that `Passes` uses, for a model on the meta device.

    Attributes:
        tracked: number of examples of each training pass whose backward pass has not been made yet.
    """

    device = META

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        self.module, self._dtype = module, dtype
        self.tracked: list[int] = []

    def __call__(self, **inputs: Tensor) -> Any:
        result = self.module(**inputs)
        self.tracked.append(len(inputs["input_ids"]))
        return result

    def fp16_enabled(self) -> bool:
        return self._dtype == torch.float16

    def bfloat16_enabled(self) -> bool:
        return self._dtype == torch.bfloat16


class Rehearsal(Passes):
    """Implements `mat_ds.methods.base.Engine` on the meta device.

    Args:
        module: the model, on the meta device; it is cast to `dtype`.
        dtype: the compute dtype.
        read: as for `Passes`.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, read: Read = read_output):
        self._engine = StandIn(module.to(dtype).train(), dtype)
        super().__init__(cast(Any, self._engine), EmbeddingPerturbation(module), seed=0, read=read)
        self._hold, self._release = self._make_whole, self._divide
        self._begin(())
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after, with_kwargs=True)
        for parameter in module.parameters():
            if parameter.requires_grad:
                # `model_states` counts the gradients.
                parameter.register_post_accumulate_grad_hook(_drop_gradient)

    def play(self, method: Method, batches: Sequence[MicroBatch]) -> PassCounts:
        """Runs one outer step and counts passes and bytes.

        Args:
            method: the run's method, perhaps with shorter loops.
            batches: the micro-batches of one rank, without values.
        """
        known = [*self._engine.module.parameters(), *self._engine.module.buffers()]
        values = (tensor for batch in batches for tensor in (*batch.inputs.values(), batch.labels))
        self._begin((*known, *values), method.chain.samples)
        with gpu_kernels(), self._live:
            method.step(self, batches)
        self._divide()
        self._tally.peak = max(self._tally.peak, self._live.peak, self._tally.whole_peak)
        return self._tally

    def count(self, method: Method, batches: Sequence[MicroBatch]) -> PassCounts:
        """Runs one outer step and counts passes and flops. Bytes cannot be counted too: torch's counter keeps tensors alive."""
        self._begin((), method.chain.samples)
        with gpu_kernels(), self._live, self._flops:
            method.step(self, batches)
        self._tally.held = 0
        return self._tally

    def _begin(self, known: Sequence[Tensor], samples: int = 1) -> None:
        self._samples, self._tally, self._live, self._flops = samples, PassCounts(), Live(known), FlopCounterMode(display=False)
        self._is_whole = False

    def _make_whole(self) -> None:
        if not self._is_whole:
            self._is_whole, self._tally.gathers = True, self._tally.gathers + 1
            self._tally.peak, self._live.peak = max(self._tally.peak, self._live.peak), self._live.now

    def _divide(self) -> None:
        if self._is_whole:
            self._is_whole = False
            self._tally.whole_peak, self._live.peak = max(self._tally.whole_peak, self._live.peak), self._live.now

    # The methods of `Engine` that `Passes` does not implement, or that must be counted.

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        return torch.empty(*batch.inputs["input_ids"].flatten(0, -2).shape, self._perturbation.width, device=META)

    uniform = normal

    def delta_gradient(self, batch: MicroBatch, masks: Masks, delta: Tensor, *payoff: Any) -> Tensor:
        before, forward = self._flops.get_total_flops(), self._tally.forward.flops
        gradient = super().delta_gradient(batch, masks, delta, *payoff)
        done = self._flops.get_total_flops() - before - (self._tally.forward.flops - forward)
        self._tally.input_gradient.add(1, len(batch.labels), done)
        return gradient

    def first_layer_gradient(self, batch: MicroBatch, masks: Masks, delta: Tensor, slope: Tensor) -> Tensor:
        before, gradient = self._flops.get_total_flops(), super().first_layer_gradient(batch, masks, delta, slope)
        self._tally.first_layer.add(1, len(batch.labels), self._flops.get_total_flops() - before)
        return gradient

    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Any:
        self._divide()
        before = self._flops.get_total_flops()
        self._set_training(self._dropped)
        loss.backward()
        tracked, self._engine.tracked, self._tracked = self._engine.tracked, [], False
        self._tally.tracked = max(self._tally.tracked, sum(tracked))
        self._tally.backward.add(len(tracked), sum(tracked), self._flops.get_total_flops() - before)
        if delta is None:
            return None
        gradient, delta.grad = delta.grad, None
        return gradient

    def update(self) -> None:
        self._divide()
        self._tally.updates += 1

    def inner_steps(self) -> Iterator[int]:
        self._divide()
        yield from range(self._samples)

    @contextmanager
    def averaged_weights(self, name: str) -> Iterator[None]:
        self._tally.exchanges += 2
        self._divide()
        yield
        self._divide()

    # Hooks around every forward pass.

    def _before(self, module: nn.Module, inputs: Any) -> None:
        self._flops_before = self._flops.get_total_flops()
        if not self._engine.tracked:
            self._tally.held = max(self._tally.held, self._live.now)

    def _after(self, module: nn.Module, inputs: Any, named: dict[str, Tensor], result: Any) -> None:
        self._tally.forward.add(1, len(named["input_ids"]), self._flops.get_total_flops() - self._flops_before)


class Stub(nn.Module):
    """A minimal model, for when only number and order of the passes matter.

    Args:
        width: hidden units of the word embeddings, so that perturbations have the right size.
        kind: of the task, for the shape of its logits.
    """

    def __init__(self, width: int, kind: Kind):
        super().__init__()
        self.embedding, self._kind = nn.Embedding(1, width, device=META), kind
        self.layers = nn.ModuleList([nn.Sequential(nn.Identity())])

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        score = self.layers[0](self.embedding(input_ids.flatten(0, -2))).mean()
        return SimpleNamespace(logits=score.expand(self._kind.logits_shape(input_ids.shape)))


def blank_batches(count: int, examples: int, length: int, kind: Kind, inputs: int = 1) -> list[MicroBatch]:
    """Makes micro-batches on the meta device.

    Args:
        count: number of micro-batches.
        examples, length: B and L of each.
        kind: the kind of the task.
        inputs: of an example, such as those of its choices.
    """
    shape = (examples, inputs, length) if inputs > 1 else (examples, length)

    def batch(index: int) -> MicroBatch:
        blank = {name: torch.empty(shape, dtype=torch.long, device=META) for name in INPUTS}
        return MicroBatch(blank, kind.blank_targets(shape).to(META), index)

    return [batch(index) for index in range(count)]


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
