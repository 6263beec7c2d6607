"""Passes that train nothing, replayed as CUDA graphs: one call starts all their kernels.

Of a large encoder on short texts, the processor takes longer to start the kernels of a pass than the card to run them. A pass
is captured once for each shape, by `torch.cuda.make_graphed_callables`: forward and backward are two graphs, between which the
payoff is differentiated as ever. Captured passes read inputs and perturbation where they were copied to, the weights where
they are, and dropout's seed where torch writes it before each replay, so that equal seeds drop equal units, in a replay and
out of it.

Capture has not run on a card yet (`tests/gpu/test_graphs.py`, `benchmarks.gpu_check`); on a CPU, tests put a stand-in in its
place that computes the pass again from the same copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mat_ds.errors import Problem, UserError
from mat_ds.models.build import Built
from mat_ds.models.options import ModelConfig
from mat_ds.models.packing import Packing, pack_as

# A pass: the model's inputs and the perturbation to predictions.
Pass = Callable[[dict[str, Tensor], "Tensor | None"], Tensor]
# Makes a function of tensors into one that copies its arguments to fixed addresses, computes there and returns fixed addresses.
# It calls the function to do so, on tensors of its own.
Capture = Callable[[Callable[..., Tensor], Sequence[Tensor]], Callable[..., Tensor]]
# Passes of other shapes than the first so many are computed as ever: each takes memory, and seconds to capture.
MOST = 64


def capture_on_card() -> Capture:
    """Captures with a memory pool for all graphs: no two of them are alive together."""
    pool = torch.cuda.graph_pool_handle()

    def capture(run: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Callable[..., Tensor]:
        try:
            graphed: Any = torch.cuda.make_graphed_callables(run, tuple(arguments), pool=pool)
        finally:
            # Matrix products keep a workspace, of 32 MiB on a Hopper card, for each stream that a capture warmed up on.
            torch._C._cuda_clearCublasWorkspaces()
        return cast(Callable[..., Tensor], graphed)

    return capture


def graph_problems(model: ModelConfig, built: Built) -> Iterator[Problem]:
    """Yields a problem if passes of a model cannot be captured, or not on this machine."""
    if model.compile == "off":
        return
    if not torch.cuda.is_available():
        reason, fix = "this machine has no NVIDIA GPU, and CUDA graphs are of one", "leave it out"
        yield Problem("model.compile", model.compile, reason, fix)
    elif not built.unpadded:
        config: Any = built.module.config
        cause = "model.attention=eager" if model.attention == "eager" else config.model_type
        reason = f"models that compute padding, as {cause} does, are not captured"
        yield Problem("model.compile", model.compile, reason, "leave it out, or take a model without, such as a RoBERTa")


class Graphs:
    """Captures passes through a module without padding, one for each shape, and replays them.

    Args:
        run: makes a pass.
        module: what it passes through, from `remove_padding`.
        capture: how passes are captured.
        most: shapes that are.

    Attributes:
        captured: passes captured so far.
        replayed: passes replayed so far.
    """

    def __init__(self, run: Pass, module: nn.Module, capture: Capture, most: int = MOST):
        self._run, self._module, self._capture, self._most = run, module, capture, most
        self._passes: dict[tuple[Any, ...], Callable[..., Tensor]] = {}
        parts: Iterator[Any] = module.modules()
        self._token_step: int = next(part.token_step for part in parts if hasattr(part, "token_step"))
        self._weights = [*module.parameters(), *module.buffers()]
        self._addresses: list[int] = []
        self._held = False
        self.captured = self.replayed = 0

    def __call__(self, inputs: dict[str, Tensor], delta: Tensor | None, seed: Callable[[], None]) -> Tensor:
        """Predictions, in memory of their own; differentiable once in delta, if that requires a gradient. That gradient is
        overwritten by the next replay.

        Args:
            inputs: of the model.
            delta: added to the word embeddings.
            seed: seeds dropout as the caller has, which capturing undoes.

        Raises:
            UserError: if the pass cannot be captured.
        """
        mask = inputs["attention_mask"]
        packing = Packing.of(mask if mask.dim() == 2 else mask.flatten(0, -2), self._token_step)
        traced = torch.is_grad_enabled() and delta is not None and delta.requires_grad
        shapes = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        sizes = packing and (packing.tokens, packing.longest, packing.full)
        key = (self._module.training, traced, delta is None, shapes, sizes)
        self._forget_if_weights_moved()
        if self._held or (key not in self._passes and len(self._passes) >= self._most):
            return self._run(inputs, delta)
        arguments = [*inputs.values(), *([] if delta is None else [delta])]
        if key not in self._passes:
            self._passes[key] = self._captured(list(inputs), packing, arguments, traced)
            seed()
        self.replayed += 1
        return self._passes[key](*arguments).clone()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within this context, between the forward and the backward pass of a replay, other passes are not replayed: they would
        overwrite what the backward pass reads."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _captured(
        self, names: list[str], packing: Packing | None, arguments: list[Tensor], traced: bool
    ) -> Callable[..., Tensor]:
        """The pass of these arguments' shapes."""

        def run(*given: Tensor) -> Tensor:
            inputs = dict(zip(names, given, strict=False))
            # Where texts end is computed from the mask in each replay; of what the host knows, only sizes are kept.
            pack_as(inputs["attention_mask"], packing)
            return self._run(inputs, given[len(names)] if len(given) > len(names) else None)

        own = [value.detach().clone() for value in arguments]
        if traced:
            own[-1].requires_grad_()
        try:
            found = self._capture(run, own)
        except Exception as error:  # whatever a model does that a graph cannot record
            # An error within a capture makes the end of the capture fail too.
            cause = error.__context__ if isinstance(error.__context__, Exception) else error
            if isinstance(cause, UserError | torch.OutOfMemoryError):
                raise cause from None
            first = (str(cause).splitlines() or [""])[0]
            reason = f"a pass of this model cannot be captured ({type(cause).__name__}: {first})"
            raise UserError(Problem("model.compile", "graphs", reason, "leave it out")) from error
        self.captured += 1
        return found

    def _forget_if_weights_moved(self) -> None:
        """Graphs read weights at the addresses that they had; the engine updates them in place."""
        addresses = [value.data_ptr() for value in self._weights]
        if addresses != self._addresses:
            self._passes.clear()
            self._addresses = addresses
