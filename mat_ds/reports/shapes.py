"""Schemas of the files of a run folder that a report reads; the files may come from anyone."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from mat_ds.artifacts.calibrated import Calibration
from mat_ds.artifacts.confusion import Confusion
from mat_ds.artifacts.evaluated import Level, Number, Steps
from mat_ds.storage.events import Record, as_one_life, records_in
from mat_ds.tracking.mirrored import Shape
from mat_ds.tracking.playback import is_whole


class _Named(Shape):
    name: str


class _Train(Shape):
    batch_size: Annotated[int, Field(ge=1, lt=2**63)]
    epochs: Level = 1.0
    max_steps: Steps | None = None


class Config(Shape):
    """`config.yaml`."""

    task: str
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    method: _Named
    model: _Named
    train: _Train

    @model_validator(mode="before")
    @classmethod
    def _keys_are_words(cls, found: Any) -> Any:
        places = [found]
        while places:
            place = places.pop()
            if isinstance(place, dict):
                if odd := next((key for key in place if not isinstance(key, str)), None):
                    raise ValueError(f"{odd!r} is not the name of an option")
                places += place.values()
        return found


class _Export(Shape):
    which: str = "best"


class Results(Shape):
    """`results.json`."""

    task: str | None = None
    steps: Steps | None = None
    seconds: Level | None = None
    export: _Export = _Export()
    test: dict[str, dict[str, Number]] = Field({})
    confusion: Confusion | None = None
    calibration: Calibration | None = None


class Environment(Shape):
    """`environment.json`."""

    devices: list[str] = Field([])
    packages: dict[str, str] = Field({})
    git_commit: str | None = None
    world_size: int | str | None = None


class Architecture(Shape):
    """`model/config.json`."""

    model_type: str | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None


def events_of(path: Path) -> list[Record]:
    """`read_events`, without invalid records and values; empty if there is no file."""
    return as_one_life(_sounds(records_in(path)))


def _sounds(records: Iterable[Record]) -> list[Record]:
    """The valid records with their valid numbers; an evaluation must have a score."""
    kept = [_sound(record) for record in records if is_whole(record)]
    return [record for record in kept if record["event"] != "evaluation" or _is_finite(record.get("score"))]


def _sound(record: Record) -> Record:
    flat = {key: value for key, value in record.items() if _is_finite(value) or isinstance(value, str)}
    tables = {key: value for key, value in record.items() if isinstance(value, dict)}
    return flat | {key: {name: number for name, number in table.items() if _is_finite(number)} for key, table in tables.items()}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > sys.float_info.max
