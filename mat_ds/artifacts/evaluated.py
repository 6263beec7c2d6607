"""Reports of `mat-ds evaluate`: the structure of `robustness.json`. The files may come from anyone."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from mat_ds.artifacts.described import model_sha256
from mat_ds.errors import raise_if_any
from mat_ds.storage.own_files import file_problems
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.registry import TASKS
from mat_ds.tracking.mirrored import Shape, checked

Number = Annotated[float, Field(strict=False, ge=-sys.float_info.max, le=sys.float_info.max)]
Level = Annotated[float, Field(strict=False, ge=0, le=1e30)]
Steps = Annotated[int, Field(ge=0, lt=2**63)]
FIX = "mend it, or delete its folder"
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


class _Masking(Shape):
    signs: list[str]


class _Smoothing(Shape):
    sigma: Number
    examples: Steps
    points: list[dict[str, Number]]


class _Split(Shape):
    clean: dict[str, Number]
    attack: list[dict[str, Number]]
    noise: dict[str, Annotated[list[dict[str, Number]], Field(min_length=1)]]
    calibration: _Before | None = None
    text_attacks: dict[str, _TextAttack] = Field({})
    shift: _Shift = _Shift()
    masking: _Masking | None = None
    smoothing: _Smoothing | None = None


class _Data(Shape):
    examples: dict[str, Steps] = Field({})


class _Test(Shape):
    name: str
    kind: str
    cases: Steps
    failures: Steps
    failure_rate: Number


class _Tests(Shape):
    tests: list[_Test]


Found = Annotated[float, Field(strict=False)] | None


class _Required(Shape):
    condition: str
    found: dict[str, Found]
    champion: dict[str, Found] = Field({})
    met: bool


class _Gate(Shape):
    met: bool
    required: list[_Required]


class Robustness(Shape):
    """`evaluation*/robustness.json`."""

    task: str
    attack: _Attack
    splits: Annotated[dict[str, _Split], Field(min_length=1)]
    data: _Data = _Data()
    invariance: _Tests | None = None
    gate: _Gate | None = None

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


def evaluations_of(model: Path) -> list[dict[str, Any]]:
    """Reports on a model, as its weights are now, that are in its folder or in the run around it, the oldest first.

    Args:
        model: its folder.

    Raises:
        UserError: if one is damaged, or is not of that folder.
    """
    folders = [model, *([model.parent] if RunDirectory(model.parent).holds_a_run else [])]
    found = [(folder, path) for folder in folders for path in report_files(folder)]
    raise_if_any(problem for folder, path in found for problem in file_problems(folder, [str(path.relative_to(folder))]))
    reports = [checked(path, Robustness, read_json(path, FIX)) for _, path in found]
    now = model_sha256(model) if reports else None
    return [report for report in reports if isinstance(on := report.get("model"), dict) and on.get("sha256") == now]


def report_files(folder: Path) -> list[Path]:
    """The reports that `mat-ds evaluate` wrote into a folder, the oldest first."""
    return sorted(folder.glob("evaluation*/robustness.json"), key=lambda path: _trailing_number(path.parent.name))


def _trailing_number(folder: str) -> int:
    return int((re.search(r"[0-9]+$", folder) or [0])[0])


def quantity_of(splits: Sequence[Mapping[str, Any]]) -> str | None:
    """What curves of robustness show: a quantity of every point of every split, clean, at all radii and under all noise. First
    comes one of `USUAL`, then a metric, then the loss; None if there is nothing."""
    points = [point for split in splits for point in (split["clean"], *split["attack"], *chain(*split["noise"].values()))]
    known = [name for name in points[0] if all(name in point for point in points)]
    return next((name for name in (*USUAL, *known) if name in known), None)
