"""Reports of `mat-ds evaluate`: the structure of `robustness.json`. The files may come from anyone."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

from pydantic import Field, model_validator

from mat_ds.tasks.registry import TASKS
from mat_ds.tracking.mirrored import Shape

Number = Annotated[float, Field(strict=False, ge=-sys.float_info.max, le=sys.float_info.max)]
Level = Annotated[float, Field(strict=False, ge=0, le=1e30)]
Steps = Annotated[int, Field(ge=0, lt=2**63)]
# What curves show if it was measured: the share of right answers, by either name, and what a regression has for it.
USUAL = ("accuracy", "exact_match", "mse")


class _Attack(Shape):
    norm: str
    radii: list[Level]
    steps: int
    step_size: Level


class _ChangedText(Shape):
    texts: list[str]
    changed: list[str]


class _TextAttack(Shape):
    examples: Steps
    clean: Number
    robust_accuracy: Number
    flip_rate: Number | None = None
    queries: Number | None = None
    shown: list[_ChangedText] = Field([])


class _NoisyQuality(Shape):
    rate: Number
    nll: Number
    ece: Number


class _Shift(Shape):
    noise: dict[str, list[_NoisyQuality]] = Field({})
    text_attacks: dict[str, dict[str, Number]] = Field({})


class _Before(Shape):
    before: dict[str, Number]


class _Split(Shape):
    clean: dict[str, Number]
    attack: list[dict[str, Number]]
    noise: dict[str, Annotated[list[dict[str, Number]], Field(min_length=1)]]
    calibration: _Before | None = None
    text_attacks: dict[str, _TextAttack] = Field({})
    shift: _Shift = _Shift()


class Robustness(Shape):
    """`evaluation*/robustness.json`."""

    task: str
    attack: _Attack
    splits: Annotated[dict[str, _Split], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> Robustness:
        """Checks that every split has a point per radius, every kind of noise equally many points, and all points a quantity in
        common."""
        splits = list(self.splits.values())
        lengths = {len(points) for split in splits for points in split.noise.values()}
        whole = all(len(split.attack) == len(self.attack.radii) for split in splits) and len(lengths) <= 1
        whole &= all("radius" in point for split in splits for point in split.attack)
        whole &= all("rate" in point for split in splits for points in split.noise.values() for point in points)
        whole &= quantity_of([split.model_dump() for split in splits]) is not None
        if not whole or (self.task in TASKS and not set(TASKS[self.task].dev) & self.splits.keys()):
            raise ValueError("its splits, radii and rates do not fit together")
        return self


def quantity_of(splits: Sequence[Mapping[str, Any]]) -> str | None:
    """What curves of robustness show: a quantity of every point of every split, clean, at all radii and under all noise. First
    comes one of `USUAL`, then a metric, then the loss; None if there is nothing."""
    points = [point for split in splits for point in (split["clean"], *split["attack"], *chain(*split["noise"].values()))]
    known = [name for name in points[0] if all(name in point for point in points)]
    return next((name for name in (*USUAL, *known) if name in known), None)
