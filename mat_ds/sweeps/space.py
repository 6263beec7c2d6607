"""The search space of a sweep: reads and checks the file, and draws values from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError

from mat_ds.config.packaged import SPACES
from mat_ds.config.section import Count, Section
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, raise_if_any

if TYPE_CHECKING:
    import optuna

Number = int | float
Scalar = bool | int | float | str | None
Values = dict[str, Any]

MOST_OF_A_GRID = 1000


class Choices(Section):
    choices: Annotated[list[Scalar], Field(min_length=1)] = Field(description="the values themselves")


class Range(Section):
    low: Number = Field(description="smallest value")
    high: Number = Field(description="largest value")
    log: bool = Field(False, description="even in the logarithm")
    step: Number | None = Field(None, description="only low, low + step, low + 2 step, ...")

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))


def _kind(value: Any) -> str:
    """Whether a value, as written or as read, is `choices` or a `range`."""
    return "choices" if isinstance(value, Choices) or (isinstance(value, dict) and "choices" in value) else "range"


Extent = Annotated[Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_kind)]


class Space(Section):
    """The contents of a space file. A key of `options` may name several options, joined by commas, which get the same value."""

    options: Annotated[dict[str, Extent], Field(min_length=1)] = Field(
        description="option -> {choices} or {low, high, log, step}"
    )
    sampler: Literal["tpe", "random", "grid"] = Field("tpe", description="how the next values are found")
    pruner: Literal["median", "none"] = Field(
        "median",
        description="median: stop a trial whose best dev score so far is below the median of the others at that evaluation",
    )
    startup_trials: Count = Field(10, description="trials drawn at random and never stopped, before sampler and pruner judge")
    warmup_evaluations: Annotated[int, Field(ge=0)] = Field(
        1, description="evaluations of each trial at which it is not stopped"
    )
    objective: Literal["last", "best", "median_last_half"] = Field(
        "median_last_half", description="which dev score of a trial counts; best flatters"
    )

    @property
    def grid(self) -> list[Values]:
        """Every combination of values, in the order of the file."""
        return [dict(zip(self.options, values, strict=True)) for values in product(*map(_values, self.options.values()))]


def read_space(path: Path) -> Space:
    """Reads a space file.

    Raises:
        UserError: naming everything that is wrong in it.
    """
    SPACES.require(path, "--space")
    tree = read_yaml(path)
    try:
        space = Space.model_validate(tree)
    except ValidationError as error:
        raise UserError(*(
            Problem(f"{path}: {'.'.join(str(part) for part in found['loc'] if part not in ('choices', 'range'))}",
                    found["input"], found["msg"].lower(), f"see {SPACES.path('demo')} for how it is written")
            for found in error.errors()
        )) from None  # fmt: skip
    raise_if_any((*_option_problems(path, space), *_range_problems(path, space)))
    if space.sampler == "grid" and (count := prod(_count(extent) for extent in space.options.values())) > MOST_OF_A_GRID:
        raise UserError(Problem(f"{path}: sampler", "grid", f"{count:,} combinations are more than {MOST_OF_A_GRID:,}",
                                "take fewer values, or sampler: tpe"))  # fmt: skip
    return space


def _option_problems(path: Path, space: Space) -> Iterator[Problem]:
    """Yields a problem for each option that is searched twice, and each value that is listed twice."""
    searched = [(name, key) for key in space.options for name in names(key)]
    for i, (name, key) in enumerate(searched):
        if other := next((before for one, before in searched[:i] if one == name), None):
            yield Problem(f"{path}: {key}", name, f"is searched twice, under {other!r} too", "name it once")
    for key, extent in space.options.items():
        if isinstance(extent, Choices):
            written = [json.dumps(value) for value in extent.choices]
            if twice := next((value for value in written if written.count(value) > 1), None):
                yield Problem(f"{path}: {key}", twice, "is among the choices twice", "list it once")


def _range_problems(path: Path, space: Space) -> Iterator[Problem]:
    for key, extent in space.options.items():
        if isinstance(extent, Choices):
            continue
        shown, where = f"{extent.low} to {extent.high}", f"{path}: {key}"
        if extent.low > extent.high:
            yield Problem(where, shown, "low is above high", "exchange them")
        if extent.log and extent.low <= 0:
            yield Problem(where, shown, "zero has no logarithm", "take a low above 0, or log: false")
        if extent.step is not None and (extent.log or extent.step <= 0):
            yield Problem(where, shown, "a step is above 0, and not in the logarithm", "leave out step or log")
        if space.sampler == "grid" and extent.step is None:
            yield Problem(where, shown, "a grid needs steps", "give it a step, or choices")


def _count(extent: Choices | Range) -> int:
    """Number of values that `_values` returns."""
    if isinstance(extent, Choices):
        return len(extent.choices)
    return int(min((extent.high - extent.low) / extent.step + 1e-9, 1e15)) + 1 if extent.step else 2


def _values(extent: Choices | Range) -> list[Any]:
    """All values of an option; for a range without steps, its two ends. Rounded, so that 0.2 + 0.1 is 0.3."""
    if isinstance(extent, Choices):
        return list(extent.choices)
    if not extent.step:
        return [extent.low, extent.high]
    values = [extent.low + i * extent.step for i in range(_count(extent))]
    return values if extent.whole else [min(float(f"{value:.12g}"), extent.high) for value in values]


def extremes(space: Space) -> Iterator[tuple[str, Any]]:
    """Yields each option with its smallest and largest value. If a run accepts both, it accepts all values between."""
    for key, extent in space.options.items():
        yield from ((key, value) for value in (_values(extent) if isinstance(extent, Choices) else (extent.low, extent.high)))


def draw(trial: optuna.Trial, space: Space) -> Values:
    """Draws a value for every option. A trial that is continued keeps the values that it has."""
    values: Values = {}
    for key, extent in space.options.items():
        if isinstance(extent, Choices):
            values[key] = trial.suggest_categorical(key, extent.choices)
        elif extent.whole:
            values[key] = trial.suggest_int(key, int(extent.low), int(extent.high), step=int(extent.step or 1), log=extent.log)
        else:
            values[key] = trial.suggest_float(key, extent.low, extent.high, step=extent.step, log=extent.log)
    return values


def names(key: str) -> list[str]:
    """The options that a key of the space names."""
    return [name.strip() for name in key.split(",")]


def overrides(values: Values) -> list[str]:
    """Drawn values as `key=value` arguments."""
    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [f"{name}={text}" for key, text in written.items() for name in names(key)]
