"""One outer step of a method on the meta device: which passes it makes, what they hold at a time, how much they compute.

Nothing is assumed about a method: its own `step` runs, on an engine whose tensors have no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mat_ds.engine.passes import Passes
from mat_ds.methods.base import Masks, Method, MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.planning.live import Live, gpu_kernels
from mat_ds.sampling.keys import Part
from mat_ds.tasks.kinds.base import Kind

META = torch.device("meta")
INPUTS = ("input_ids", "attention_mask")


@dataclass
class Work:
    """What was done of one kind.

    Attributes:
        calls: how often.
        graphs: over how many passes through the model that went.
        examples: and over how many examples, all passes together.
        flops: additions and multiplications of its matrix products, where they are counted.
    """

    calls: int = 0
    graphs: int = 0
    examples: int = 0
    flops: int = 0

    def add(self, graphs: int, examples: int, flops: int) -> None:
        self.calls, self.graphs = self.calls + 1, self.graphs + graphs
        self.examples, self.flops = self.examples + examples, self.flops + flops


@dataclass
class PassCounts:
    """What one outer step did.

    Attributes:
        forward: passes through the model.
        backward: to the parameters; each walks back through every training pass since the last.
        input_gradient: backwards to the perturbation alone.
        updates: samples of the parameters.
        exchanges: how often an average took the place of the parameters, or gave it back.
        tracked: most examples in training passes that no backward has walked through yet.
        held: most bytes alive before a pass while no training pass was: perturbations, and what moves them.
        peak: most bytes alive at all, parameters and their gradients aside.
    """

    forward: Work = field(default_factory=Work)
    backward: Work = field(default_factory=Work)
    input_gradient: Work = field(default_factory=Work)
    updates: int = 0
    exchanges: int = 0
    tracked: int = 0
    held: int = 0
    peak: int = 0

    @property
    def one_by_one(self) -> bool:
        """Whether every pass is walked back before the next is made."""
        walked = self.backward.calls + self.input_gradient.calls
        return self.backward.graphs == self.backward.calls and self.forward.calls == walked


class StandIn:
    """What `Passes` touches of a DeepSpeed engine, around a model on the meta device.

    Attributes:
        tracked: examples of each training pass that no backward has walked through yet.
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
    """`mat_ds.methods.base.Engine` on the meta device.

    Args:
        module: on the meta device; it is cast to `dtype`.
        dtype: the compute dtype.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        self._engine = StandIn(module.to(dtype).train(), dtype)
        super().__init__(cast(Any, self._engine), EmbeddingPerturbation(module), seed=0)
        self._begin(())
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after, with_kwargs=True)
        for parameter in module.parameters():
            if parameter.requires_grad:
                # What gradients take is counted apart.
                parameter.register_post_accumulate_grad_hook(_drop_gradient)

    def play(self, method: Method, batches: Sequence[MicroBatch]) -> PassCounts:
        """Runs one outer step and counts bytes.

        Args:
            method: of the run, or of one with shorter loops.
            batches: what one rank has of a batch, without values.
        """
        known = [*self._engine.module.parameters(), *self._engine.module.buffers()]
        values = (tensor for batch in batches for tensor in (*batch.inputs.values(), batch.labels))
        self._begin((*known, *values), method.chain.samples)
        with gpu_kernels(), self._live:
            method.step(self, batches)
        self._tally.peak = self._live.peak
        return self._tally

    def count(self, method: Method, batches: Sequence[MicroBatch]) -> PassCounts:
        """Runs one outer step and counts multiplications, and no bytes: torch's counter keeps tensors alive."""
        self._begin((), method.chain.samples)
        with gpu_kernels(), self._live, self._flops:
            method.step(self, batches)
        self._tally.held = 0
        return self._tally

    def _begin(self, known: Sequence[Tensor], samples: int = 1) -> None:
        self._samples, self._tally, self._live, self._flops = samples, PassCounts(), Live(known), FlopCounterMode(display=False)

    # The words of the vocabulary that draw numbers, or that passes leave to the engine.

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        return torch.empty(*batch.inputs["input_ids"].shape, self._perturbation.width, device=META)

    uniform = normal

    def delta_gradient(self, batch: MicroBatch, masks: Masks, delta: Tensor, *payoff: Any) -> Tensor:
        before, forward = self._flops.get_total_flops(), self._tally.forward.flops
        gradient = super().delta_gradient(batch, masks, delta, *payoff)
        done = self._flops.get_total_flops() - before - (self._tally.forward.flops - forward)
        self._tally.input_gradient.add(1, len(delta), done)
        return gradient

    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Any:
        before = self._flops.get_total_flops()
        loss.backward()
        tracked, self._engine.tracked, self._tracked = self._engine.tracked, [], False
        self._tally.tracked = max(self._tally.tracked, sum(tracked))
        self._tally.backward.add(len(tracked), sum(tracked), self._flops.get_total_flops() - before)
        if delta is None:
            return None
        gradient, delta.grad = delta.grad, None
        return gradient

    def update(self) -> None:
        self._tally.updates += 1

    def inner_steps(self) -> Iterator[int]:
        yield from range(self._samples)

    @contextmanager
    def averaged_weights(self, name: str) -> Iterator[None]:
        self._tally.exchanges += 2
        yield

    # Around every pass through the model.

    def _before(self, module: nn.Module, inputs: Any) -> None:
        self._flops_before = self._flops.get_total_flops()
        if not self._engine.tracked:
            self._tally.held = max(self._tally.held, self._live.now)

    def _after(self, module: nn.Module, inputs: Any, named: dict[str, Tensor], result: Any) -> None:
        self._tally.forward.add(1, len(named["input_ids"]), self._flops.get_total_flops() - self._flops_before)


class Stub(nn.Module):
    """Stands in for a model where only the number and the order of its passes matter.

    Args:
        width: of the word embeddings, so that perturbations have their size.
        outputs: of the head.
    """

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.embedding, self._outputs = nn.Embedding(1, width, device=META), outputs

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        score = self.embedding(input_ids).mean((1, 2))
        return SimpleNamespace(logits=score.unsqueeze(-1).expand(-1, self._outputs))


def blank_batches(count: int, examples: int, length: int, kind: Kind) -> list[MicroBatch]:
    """Micro-batches without values.

    Args:
        count: how many.
        examples, length: of each, B and L.
        kind: of the task.
    """

    def batch(index: int) -> MicroBatch:
        inputs = {name: torch.empty(examples, length, dtype=torch.long, device=META) for name in INPUTS}
        return MicroBatch(inputs, kind.collate([None] * examples).to(META), index)

    return [batch(index) for index in range(count)]


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
