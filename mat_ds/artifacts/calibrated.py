"""The temperature of a model, in `calibration.json` beside its weights (Guo et al. 2017, section 4.2).

Probabilities are calibrated where of all answers given with probability p a share p is right. Dividing the logits by one
temperature changes no answer, only how sure the model is of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mat_ds.artifacts.confusion import markdown
from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import write_json
from mat_ds.storage.reading import read_json
from mat_ds.tracking.mirrored import Shape, checked

FILE = "calibration.json"
# Temperatures that are tried, and that a file may hold.
LEAST, MOST = 0.1, 10.0
Temperature = Annotated[float, Field(strict=False, ge=LEAST * 0.999, le=MOST * 1.001)]


Share = Annotated[float, Field(strict=False, ge=0, le=1)]
Amount = Annotated[float, Field(strict=False, ge=0, le=1e30)]


class _Bin(Shape):
    confidence: Share
    accuracy: Share
    share: Share


class _Point(Shape):
    coverage: Share
    risk: Share


CARD_TEXT = """## Calibration

| split | probabilities | {names} |
|---|---|{rule}
{rows}
Less of each is better. `{file}` holds the temperature {temperature:.3f}, fitted on the dev splits: logits divided by it give
the calibrated probabilities of `mat-ds predict --calibrated`. The numbers at the temperature are cross-fitted: each half of
the examples at the temperature that was fitted on the other.

"""


class _Quality(Shape):
    nll: Amount
    brier: Amount
    ece: Amount
    ece_adaptive: Amount
    aurc: Amount


class _SplitQuality(Shape):
    before: _Quality
    after: _Quality
    reliability: list[_Bin]
    reliability_after: list[_Bin]
    risk_coverage: list[_Point]


class Calibration(Shape):
    """`calibration` in `results.json`."""

    temperature: Temperature
    splits: Annotated[dict[str, _SplitQuality], Field(min_length=1)]


class _TemperatureFile(Shape):
    temperature: Temperature


def write_temperature(folder: Path, calibration: dict[str, Any]) -> None:
    """Writes `calibration.json` into a model folder: the temperature and what it was fitted on, of what
    `evaluation.calibration.calibrate` returns."""
    write_json(folder / FILE, {key: calibration[key] for key in ("temperature", "fitted_on", "examples")})


def temperature_of(folder: Path, name: str) -> float:
    """The temperature of the model in a folder.

    Args:
        folder: of the model.
        name: of the model in messages.

    Raises:
        UserError: if it has none, or the file is damaged.
    """
    if not (folder / FILE).exists():
        reason = f"{name} has no {FILE}: its task has no probabilities of labels, or an earlier version trained it"
        raise UserError(Problem("calibrated", True, reason, "leave it out"))
    return float(checked(folder / FILE, _TemperatureFile, read_json(folder / FILE, "bring it back from a copy"))["temperature"])


def calibration_text(found: dict[str, Any]) -> str:
    """A section of the model card, given `calibration` of `results.json`."""
    names = list(_Quality.model_fields)
    rows = [
        f"| {markdown(split)} | {title} | {' | '.join(f'{one[when][name]:.4f}' for name in names)} |\n"
        for split, one in found["splits"].items()
        for when, title in (("before", "as they are"), ("after", "at the temperature"))
    ]
    return CARD_TEXT.format(
        names=" | ".join(names), rule="---|" * len(names), rows="".join(rows), file=FILE, temperature=found["temperature"]
    )
