"""Chooses the radius of a method's perturbation: the smallest at which R is the perturbation's and not dropout's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch

from mat_ds.engine.engine import Engine
from mat_ds.engine.loading import shard_unread
from mat_ds.errors import Problem, UserError
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import MethodSettings
from mat_ds.sampling.schedule import learning_rate
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.loader import TrainLoader
from mat_ds.terminal.display import Display
from mat_ds.training.setup import Setup
from mat_ds.training.telemetry import PRECISIONS, VISIBLE_COSINE, cosine, divergences

# R under shared masks has to be this many times the R that dropout alone makes.
TIMES = 3.0
# The method that a warm-up trains with.
WARM_UP = "vanilla"


@dataclass(frozen=True)
class Point:
    """What a perturbation of one radius does.

    Attributes:
        radius: of the method's option.
        r, r_without: mean R under shared masks, and of two passes with different masks and no perturbation.
        cosines: of intended and realised perturbation, by precision.
        flips: share of the answers that become right or wrong by it, without dropout; None if answers are neither.
    """

    radius: float
    r: float
    r_without: float
    cosines: Mapping[str, float]
    flips: float | None

    @property
    def ratio(self) -> float:
        """R under shared masks over R without."""
        return self.r / self.r_without

    def serves(self, precision: str) -> bool:
        """Whether R is the perturbation's, and the precision keeps the perturbation's direction."""
        return self.ratio > TIMES and self.cosines[precision] >= VISIBLE_COSINE


def radius_problems(settings: MethodSettings) -> Iterator[Problem]:
    """Yields a problem if a method has no perturbation, or one without a radius."""
    able = ", ".join(name for name, method in METHODS.items() if method.perturbs())
    if not settings.radius_powers:
        reason = "has no perturbation of word embeddings with these options, or does not say which of them is its radius"
        yield Problem("method.name", settings.name, reason, f"name one of {able}")
    elif not getattr(settings, option := next(iter(settings.radius_powers))):
        yield Problem(f"method.{option}", 0, "there is no radius of 0 to which others are in proportion", "take a positive one")


def usual_radii() -> Iterator[float]:
    """Yields 1e-5, 2e-5, 5e-5, 1e-4, ... 50."""
    yield from (float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2, 5))


def measure_point(engine: Engine, method: Method, kind: Kind, batches: Sequence[MicroBatch], radius: float) -> Point:
    """Measures a method's perturbation at the current parameters, over all batches; needs a single rank.

    Raises:
        UserError: if the model has no dropout, so that there is nothing to compare with.
    """
    sums: dict[str, list[float]] = {}
    for batch in batches:
        delta = method.adversary(engine, batch)
        assert delta is not None
        delta = delta.detach()
        compared = divergences(engine, method.objective, batch, delta)
        found = {"r": compared["R_shared_masks"], "r_without": compared["R_without"]}
        x, _ = engine.realised(batch, delta)
        for name, dtype in PRECISIONS.items():
            there = (x.to(dtype).float() + delta).to(dtype).float() - x.to(dtype).float()
            found[name] = cosine(delta, there, batch.mask)
        before, after = (kind.right(engine.probe(batch, None, moved), batch) for moved in (None, delta))
        if before is not None and after is not None:
            found["flips"] = (before != after).double().mean()
        for name, value in found.items():
            sums.setdefault(name, []).append(float(value))
    mean = {name: sum(values) / len(values) for name, values in sums.items()}
    if not mean["r_without"]:
        reason = "two passes of this model give one prediction: it has no dropout, and every R would be more than three times 0"
        raise UserError(Problem("model.dropout", None, reason, "pass model.dropout=0.1, or name another model"))
    return Point(radius, mean["r"], mean["r_without"], {name: mean[name] for name in PRECISIONS}, mean.get("flips"))


def smallest(points: Sequence[Point]) -> dict[str, float | None]:
    """The smallest radius that serves, by precision; None if none of them does."""
    return {name: next((point.radius for point in points if point.serves(name)), None) for name in PRECISIONS}


def until_found(measure: Callable[[float], Point]) -> list[Point]:
    """The points of the usual radii, up to one beyond that which serves every precision."""
    points: list[Point] = []
    for radius in usual_radii():
        points.append(measure(radius))
        if all(smallest(points[:-1]).values()):
            break
    return points


def options_at(settings: MethodSettings, radius: float) -> str:
    """The options of a method with its perturbation at a radius, all that are not the usual ones, for a command line."""
    scaled, usual = settings.at_radius(radius), type(settings)(name=settings.name)
    given = {name: value for name, value in scaled.model_dump(mode="json").items() if value != getattr(usual, name)}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return " ".join([f"method.name={settings.name}", *(f"method.{name}={text}" for name, text in texts.items())])


def search(
    setup: Setup, device: torch.device, steps: int, examples: int, radii: Sequence[float], display: Display
) -> list[Point]:
    """Measures radius after radius, smallest first; without `radii`, up to one beyond that which serves every precision.

    Args:
        setup: the run whose method is looked at.
        steps: of plain fine-tuning before.
        examples: at least so many training examples are looked at.
        radii: to measure; empty: the usual ones.

    Raises:
        UserError: if the model has no dropout.
    """
    options, data, model, _ = setup
    run, objective, built = options.run, data.objective or data.kind, model.take()
    loader = TrainLoader(
        data.examples.train, data.collate, run.train.batch_size, run.train.micro_batch, run.data, run.seed, 0, 1, device
    )
    shard_unread(built.module, built.unread, options.ds_config)
    METHODS[run.method.name].prepare_model(built.module, run.method)
    warm_up = METHODS[WARM_UP](METHODS[WARM_UP].Settings(name=WARM_UP), objective)
    engine = Engine(
        built.module, run.optimizer, warm_up.chain, options.ds_config, run.seed, data.kind.read, gather=run.model.gather
    )
    try:
        lr = learning_rate(run.optimizer, max(steps, 1))
        for step in display.follow("warming up", range(steps)):
            engine.begin(step, lr(step))
            engine.end(warm_up.step(engine, loader.micro_batches(step)))
        engine.begin(steps, 0.0)
        outer = range(steps, steps + -(-examples // run.train.batch_size))
        batches = list(chain.from_iterable(loader.micro_batches(step) for step in outer))

        def measure(radius: float) -> Point:
            method = METHODS[run.method.name](run.method.at_radius(radius), objective)
            return measure_point(engine, method, data.kind, batches, radius)

        if radii:
            return [measure(radius) for radius in display.follow("measuring", sorted(radii))]
        return until_found(measure)
    finally:
        engine.close()


def table_rows(points: Sequence[Point]) -> list[list[Any]]:
    """A row of headings and one for each radius."""
    head = ["radius", "R shared masks", "R without", "ratio", *(f"kept in {name}" for name in PRECISIONS), "flips"]
    return [head] + [
        [f"{p.radius:g}", f"{p.r:.2e}", f"{p.r_without:.2e}", f"{p.ratio:.3g}",
         *(f"{p.cosines[name]:.2f}" for name in PRECISIONS), None if p.flips is None else f"{p.flips:.1%}"]
        for p in points
    ]  # fmt: skip
