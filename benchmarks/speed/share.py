"""The share of an outer step spent on bookkeeping of gradients and weights: everything in an update but the sampler, and
everything that DeepSpeed does in and after a backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.speed.baseline import Sizes
from benchmarks.speed.shapes import make_model
from benchmarks.speed.step import ROUNDS, Product, alone, batches
from benchmarks.speed.timing import Figure, Round, ratio, wait


class Clock:
    """Adds up the time of calls."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def timed(self, function: Callable[..., Any], sign: int = 1) -> Callable[..., Any]:
        """Wraps a function so that its time is added, or subtracted if `sign` is -1."""

        def call(*args: Any, **kwargs: Any) -> Any:
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            result = function(*args, **kwargs)
            wait()
            self.wall += sign * (time.perf_counter() - wall)
            self.cpu += sign * (time.process_time() - cpu)
            return result

        return call


@contextmanager
def bookkeeping(product: Product) -> Iterator[Clock]:
    """A context that times the bookkeeping."""
    clock, engine = Clock(), product.engine
    parts = [(engine, "update", 1), (engine.sampler, "step", -1), (engine.ds, "_backward_epilogue", 1)]
    parts.append((engine.ds.optimizer, "process_gradients", 1))  # called by its hooks on parameters, if it has any
    with ExitStack() as stack:
        for owner, name, sign in parts:
            stack.enter_context(patch.object(owner, name, clock.timed(getattr(owner, name), sign)))
        yield clock


def measure(model: Path | None, data: Path | None) -> Figure:
    """The share with ZeRO-1, K 5 / 5, one rank and one micro-batch."""
    found, sizes = batches(model, data), Sizes()
    with alone() as device:
        product = Product(make_model(model), delta_steps=sizes.delta_steps, theta_steps=sizes.theta_steps)
        turns = cycle(
            [({name: value.to(device) for name, value in inputs.items()}, labels.to(device)) for inputs, labels in found]
        )
        product.step(*next(turns))
        times: dict[str, list[Round]] = {"bookkeeping": [], "step": []}
        for _ in range(ROUNDS):
            whole = Clock()
            with bookkeeping(product) as own:
                whole.timed(product.step)(*next(turns))
            times["bookkeeping"].append(Round(own.wall, own.cpu))
            times["step"].append(Round(whole.wall, whole.cpu))
        product.engine.close()
    return ratio(times, "bookkeeping", "step")
