"""Number of passes of a run's outer step, and their memory and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import MethodSettings
from mat_ds.models.perturb import word_embedding
from mat_ds.planning.counts import PassCounts
from mat_ds.planning.rehearsal import Rehearsal, Stub, blank_batches
from mat_ds.planning.states import weights_of
from mat_ds.tasks.kinds.base import Kind

# What a model raises that reads values, which tensors on the meta device do not have; and what torch's FLOP counter may raise.
NO_PASS = (NotImplementedError, RuntimeError, AssertionError)


class PassBytes(NamedTuple):
    """Bytes of activations at the fullest moment of all passes of a micro-batch, and of those without gradients of the weights,
    in which ZeRO-3 may have the whole model."""

    most: int
    whole: int


class Costs:
    """Runs a method's outer step on the meta device and measures it; results are cached.

    Args:
        build: builds the model on the meta device; its argument is whether the model recomputes activations.
        dtype: the compute dtype.
        kind: of the task.
        longest, typical: tokens of an example in the longest micro-batch, for the memory, and on average, for the time.
        inputs: of an example, such as those of its choices.

    Attributes:
        kind: of the task.
        weights: the model's parameters.
        estimated: if the model cannot run on the meta device, why; memory and FLOPs are then those of `estimated_bytes` and
            `estimated_flops`. Otherwise empty.
    """

    def __init__(
        self, build: Callable[[bool], Any], dtype: torch.dtype, kind: Kind, longest: int, typical: int, inputs: int = 1
    ):
        self._build, self._dtype, self.kind, self.inputs = build, dtype, kind, inputs
        self.longest, self.typical = longest, typical
        model = build(False)
        self.weights, self._config = weights_of(model), model.config
        words = word_embedding(model)
        self._stub = Rehearsal(Stub(words.embedding_dim if words is not None else 1, kind), torch.float32)
        self.estimated = ""
        self.tally, self.pass_bytes, self.flops = cache(self._tally), cache(self._pass_bytes), cache(self._flops)
        self._rehearsal = cache(self._rehearse)

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of elements of all parameters, and of the trained ones."""
        return sum(w.numel for w in self.weights), sum(w.numel for w in self.weights if w.trained)

    def _tally(self, settings: MethodSettings, examples: int, count: int) -> PassCounts:
        """What one rank does in one outer step.

        Args:
            settings: of the method.
            examples: of a micro-batch.
            count: number of micro-batches.
        """
        return self._stub.play(self._method(settings), self._batches(count, examples, self.longest))

    def _pass_bytes(self, settings: MethodSettings, examples: int, checkpointing: bool) -> PassBytes:
        """Peak memory of the passes over one micro-batch, without perturbations that exist before them."""
        try:
            rehearsal = self._rehearsal(checkpointing, settings.shortened)
            tally = rehearsal.play(self._method(settings.shortened), self._batches(1, examples, self.longest))
            return PassBytes(tally.peak - tally.held, max(0, tally.whole_peak - tally.held))
        except NO_PASS as error:
            self.estimated = (str(error).splitlines() or [type(error).__name__])[0]
            tally = self.tally(settings.shortened, examples, 1)

            def estimated(count: int) -> int:
                tokens = count * self.inputs * self.longest
                return estimated_bytes(self._config, tokens, self.longest, self._dtype.itemsize, checkpointing)

            return PassBytes(estimated(tally.tracked), estimated(examples) if tally.gathers else 0)

    def _flops(self, settings: MethodSettings, checkpointing: bool) -> tuple[float, ...]:
        """FLOPs per example of a forward, of a backward to the parameters, of one to the perturbation, and of a forward and
        backward through the first layer alone."""
        try:
            rehearsal = self._rehearsal(checkpointing, settings.shortened)
            tally = rehearsal.count(self._method(settings.shortened), self._batches(1, 1, self.typical))
        except NO_PASS as error:
            self.estimated = (str(error).splitlines() or [type(error).__name__])[0]
            whole = estimated_flops(self.parameters[0], self.inputs * self.typical, checkpointing)
            return *whole, (whole[0] + whole[2]) / (settings.counted_layers or 1)
        works = tally.forward, tally.backward, tally.input_gradient, tally.first_layer
        return tuple(work.flops / max(1, work.examples) for work in works)

    def step_flops(self, settings: MethodSettings, examples: int, count: int, checkpointing: bool) -> float:
        """FLOPs of one rank in one outer step."""
        tally, each = self.tally(settings, examples, count), self.flops(settings, checkpointing)
        works = tally.forward, tally.backward, tally.input_gradient, tally.first_layer
        return sum(work.examples * flops for work, flops in zip(works, each, strict=True))

    def _rehearse(self, checkpointing: bool, settings: MethodSettings) -> Rehearsal:
        model = self._build(checkpointing)
        METHODS[settings.name].prepare_model(model, settings)
        return Rehearsal(model, self._dtype, self.kind.read)

    def _method(self, settings: MethodSettings) -> Method:
        return METHODS[settings.name](settings, self.kind)

    def _batches(self, count: int, examples: int, length: int) -> list[MicroBatch]:
        return blank_batches(count, examples, length, self.kind, self.inputs)


def estimated_bytes(config: Any, tokens: int, length: int, size: int, checkpointing: bool) -> int:
    """Bytes of a transformer's activations: 34 s b h + 5 a s^2 b a layer in half precision (Korthikanti et al. 2022, eq. 2).

    Args:
        config: of the model, for h, a and the number of layers.
        tokens: s b of all training passes together.
        length: s, the tokens of an example.
        size: bytes of a number in the compute dtype.
        checkpointing: whether layers keep only their inputs and recompute the rest.
    """
    hidden, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    layer = size * tokens * (17 * hidden + 2.5 * heads * length)
    return int(layer + layers * size * tokens * hidden if checkpointing else layers * layer)


def estimated_flops(parameters: int, length: int, checkpointing: bool) -> tuple[float, float, float]:
    """FLOPs per example as `Costs.flops`: a forward takes 2 per parameter and token, a backward to the parameters 4,
    and a backward to the input 2."""
    forward = 2.0 * parameters * length
    again = forward if checkpointing else 0.0
    return forward, 2 * forward + again, forward + again
