"""What the passes of one run cost, each found out once: bytes, multiplications, and how many passes there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from mat_ds.methods import METHODS
from mat_ds.methods.base import Method, MicroBatch
from mat_ds.methods.settings import MethodSettings
from mat_ds.models.perturb import word_embedding
from mat_ds.planning.rehearsal import PassCounts, Rehearsal, Stub, blank_batches
from mat_ds.planning.states import weights_of
from mat_ds.tasks.kinds.base import Kind

# What a model raises on the meta device that asks for a value, and what torch's counter does where it loses its way.
NO_PASS = (NotImplementedError, RuntimeError, AssertionError)


class Costs:
    """Rehearses a run's method on its model on the meta device.

    Args:
        build: makes the model, given whether it recomputes activations.
        dtype: the compute dtype.
        kind: of the task.
        longest, typical: tokens of the longest micro-batch, which decides bytes, and of the average one, which decides time.

    Attributes:
        kind: of the task.
        weights: the model's parameters.
        estimated: why the passes cannot be made on the meta device, if so: then bytes and multiplications are those of
            `estimated_bytes` and `estimated_flops`.
    """

    def __init__(self, build: Callable[[bool], Any], dtype: torch.dtype, kind: Kind, longest: int, typical: int):
        self._build, self._dtype, self.kind = build, dtype, kind
        self.longest, self.typical = longest, typical
        model = build(False)
        self.weights, self._config = weights_of(model), model.config
        words = word_embedding(model)
        self._stub = Rehearsal(Stub(words.embedding_dim if words is not None else 1, model.config.num_labels), torch.float32)
        self.estimated = ""
        self.tally, self.pass_bytes, self.flops = cache(self._tally), cache(self._pass_bytes), cache(self._flops)
        self._rehearsal = cache(self._rehearse)

    @property
    def parameters(self) -> tuple[int, int]:
        """Elements of all parameters, and of those that are trained."""
        return sum(w.numel for w in self.weights), sum(w.numel for w in self.weights if w.trained)

    def _tally(self, settings: MethodSettings, examples: int, count: int) -> PassCounts:
        """Passes, backwards, updates and perturbations of one rank in one outer step.

        Args:
            settings: of the method.
            examples, count: of its micro-batches, and how many they are.
        """
        return self._stub.play(self._method(settings), self._batches(count, examples, self.longest))

    def _pass_bytes(self, settings: MethodSettings, examples: int, checkpointing: bool) -> int:
        """Most bytes alive in the passes over one micro-batch, beside the perturbations that are there already."""
        try:
            rehearsal = self._rehearsal(checkpointing, settings.shortened)
            tally = rehearsal.play(self._method(settings.shortened), self._batches(1, examples, self.longest))
            return tally.peak - tally.held
        except NO_PASS as error:
            self.estimated = (str(error).splitlines() or [type(error).__name__])[0]
            tracked = self.tally(settings.shortened, examples, 1).tracked
            return estimated_bytes(self._config, tracked * self.longest, self.longest, self._dtype.itemsize, checkpointing)

    def _flops(self, settings: MethodSettings, checkpointing: bool) -> tuple[float, float, float]:
        """Additions and multiplications per example of a forward, a backward, and a backward to the perturbation alone."""
        try:
            rehearsal = self._rehearsal(checkpointing, settings.shortened)
            tally = rehearsal.count(self._method(settings.shortened), self._batches(1, 1, self.typical))
        except NO_PASS as error:
            self.estimated = (str(error).splitlines() or [type(error).__name__])[0]
            return estimated_flops(self.parameters[0], self.typical, checkpointing)
        forward, backward, back = (w.flops / max(1, w.examples) for w in (tally.forward, tally.backward, tally.input_gradient))
        return forward, backward, back

    def step_flops(self, settings: MethodSettings, examples: int, count: int, checkpointing: bool) -> float:
        """Additions and multiplications of one rank in one outer step."""
        tally, each = self.tally(settings, examples, count), self.flops(settings, checkpointing)
        done = tally.forward.examples, tally.backward.examples, tally.input_gradient.examples
        return sum(number * flops for number, flops in zip(done, each, strict=True))

    def _rehearse(self, checkpointing: bool, settings: MethodSettings) -> Rehearsal:
        model = self._build(checkpointing)
        METHODS[settings.name].prepare_model(model, settings)
        return Rehearsal(model, self._dtype)

    def _method(self, settings: MethodSettings) -> Method:
        return METHODS[settings.name](settings, self.kind)

    def _batches(self, count: int, examples: int, length: int) -> list[MicroBatch]:
        return blank_batches(count, examples, length, self.kind)


def estimated_bytes(config: Any, tokens: int, length: int, size: int, checkpointing: bool) -> int:
    """Activations of a transformer: 34 s b h + 5 a s^2 b bytes a layer in half precision (Korthikanti et al. 2022, eq. 2).

    Args:
        config: the model's, for h, a and the number of layers.
        tokens, length: s b of all training passes together, and s.
        size: bytes of the compute dtype.
        checkpointing: whether all layers but the one at work keep their input alone.
    """
    hidden, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    layer = size * tokens * (17 * hidden + 2.5 * heads * length)
    return int(layer + layers * size * tokens * hidden if checkpointing else layers * layer)


def estimated_flops(parameters: int, length: int, checkpointing: bool) -> tuple[float, float, float]:
    """Two for each parameter and token of a forward, twice that for a backward, and once for one to the input alone."""
    forward = 2.0 * parameters * length
    again = forward if checkpointing else 0.0
    return forward, 2 * forward + again, forward + again
