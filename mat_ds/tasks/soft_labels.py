"""Labels that are not certain: the probability of each, as a list in the labels' order or a map from names."""

from __future__ import annotations

import json
import math
from typing import Any

from mat_ds.errors import first_names
from mat_ds.tasks.labels import class_of
from mat_ds.tasks.spec import TaskSpec

# How far probabilities may sum to something else than 1, as where they are rounded; they are then divided by their sum.
TOLERANCE = 1e-3
# Labels shown in a message.
SHOWN = 5


def probabilities_of(spec: TaskSpec, value: Any) -> tuple[float, ...] | None:
    """The probabilities that a value from a file holds, in the order of the labels; None if it is neither list nor map.

    Args:
        spec: the task, with its labels.
        value: a list, a map, or the JSON of one, as in a csv cell.

    Raises:
        ValueError: with the reason, if they cannot be used.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not JSON") from None
    if isinstance(value, dict):
        value = _in_order(spec, value)
    if not isinstance(value, list | tuple):
        return None
    if len(value) != len(spec.labels):
        raise ValueError(f"it is a list of {len(value)}")
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and 0 <= each <= 1 + TOLERANCE for each in value):
        raise ValueError("its values are not all numbers from 0 to 1")
    if abs((total := math.fsum(value)) - 1) > TOLERANCE:
        raise ValueError(f"its values sum to {total:.6g}, not to 1")
    return tuple(each / total for each in value)


def _in_order(spec: TaskSpec, given: dict[Any, Any]) -> list[Any]:
    """The values of a map in the order of the labels."""
    found: dict[int, Any] = {}
    for label, probability in given.items():
        if (number := class_of(spec, label)) is None or number in found:
            raise ValueError(f"it names {str(label)[:40]!r}" + ("" if number is None else ", which is named already"))
        found[number] = probability
    if missing := [label for number, label in enumerate(spec.labels) if number not in found]:
        raise ValueError(f"it lacks {first_names(missing, SHOWN)}")
    return [found[number] for number in range(len(spec.labels))]
