"""Interprets label values identically for all file formats.

csv only has text, while JSON and Parquet also have numbers and booleans; the same label must map to the same class in all of
them. Numbers are recognised in JSON's notation: 1, 1.0 and 1e0 are the same label, while 01 is a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from mat_ds.errors import Problem, UserError, first_names
from mat_ds.tasks.spec import TaskSpec

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# What `float` accepts, except 1_0 and digits of other scripts.
SCORE = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)")
# A number inside a name, in digits of any script.
DIGITS = re.compile(r"\d+")
# Longer numbers are not labels; converting thousands of digits would be slow or fail.
LONGEST_NUMBER = 40
# Labels shown in a message.
SHOWN = 20
# Larger integers are not exact in a float.
EXACT = 2**53


def label_text(value: Any) -> str | None:
    """The canonical text of a label, equal for all its forms in files; None if the value cannot be a label.

    Args:
        value: a text, a number or a boolean.
    """
    if not isinstance(value, str | int | float | Decimal):  # bool is a subclass of int
        return None
    if isinstance(value, int) and abs(value) >= 10**LONGEST_NUMBER:
        return None
    if not isinstance(value, str) and not math.isfinite(value):  # NaN is how tables represent a missing label
        return None
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text):
        return text
    if text.removeprefix("-").isdigit():
        return str(int(text))
    number = float(text)
    return str(int(number)) if number.is_integer() and abs(number) <= EXACT else repr(number)


def is_number(text: str) -> bool:
    """Whether a label is written as a number."""
    return len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text.strip()) is not None


def score_of(value: Any) -> float | None:
    """The score that a label stands for, including NaN and infinities; None if it is not a number."""
    if isinstance(value, str) and not SCORE.fullmatch(value.strip().lower()):
        return None
    try:
        return None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def class_of(spec: TaskSpec, value: Any) -> int | None:
    """The class of a label, by `label_map`, name or class number; None if it is none of these.

    A class number counts as a label only if no name or key of `label_map` is a number or contains a conflicting one: with
    labels 1 to 5, 0 must not mean the first class, nor 1 the label `2 stars`.
    """
    text = label_text(value)
    if text is None:
        return None
    known, numbered = _meanings(spec.labels, tuple(spec.label_map.items()))
    for spelling in (value, text):
        if isinstance(spelling, str) and spelling in known:
            return known[spelling]
    # at most 6 digits: no task has a million classes
    is_index = numbered and len(text) <= 6 and text.isdecimal() and is_number(text) and int(text) < len(spec.labels)
    return int(text) if is_index else None


def is_named(spec: TaskSpec, value: str) -> bool:
    """Whether a label is a class name or a key of `label_map`, not just a class number."""
    known, _ = _meanings(spec.labels, tuple(spec.label_map.items()))
    return value in known or label_text(value) in known


def class_names(spec: TaskSpec, names: list[str], where: str) -> list[str] | None:
    """Labels for a column that numbers its classes in its own order.

    Args:
        names: the column's class names, by number.
        where: name of the file in messages.

    Returns:
        None if the names are just the numbers.

    Raises:
        UserError: if the names are not labels of the task.
    """
    named = [name for name in names if is_named(spec, name)]
    if are_numbers(names) and not named:
        return None
    if not named or any(is_number(name) for name in names if name not in named):
        shown = ", ".join(map(repr, names[:SHOWN]))
        raise UserError(Problem(where, shown, f"the classes of its label column are none of {known_labels(spec)}",
                                "map each of them to a label in the task's label_map"))  # fmt: skip
    return names


def are_numbers(names: list[str]) -> bool:
    """Whether class names are just their numbers, such as `label_0`."""
    return all(name.lower() in (str(i), f"label_{i}", f"class_{i}") for i, name in enumerate(names))


def known_labels(spec: TaskSpec) -> str:
    """The task's labels for a message, with their numbers if those are labels too."""
    _, numbered = _meanings(spec.labels, tuple(spec.label_map.items()))
    known = [f"{i} ({name})" for i, name in enumerate(spec.labels)] if numbered else [*spec.labels, *spec.label_map]
    return first_names(known, SHOWN)


@lru_cache(maxsize=64)
def _meanings(labels: tuple[str, ...], label_map: tuple[tuple[str, str], ...]) -> tuple[dict[str, int | None], bool]:
    """The class of each label, by its spelling and its canonical text; and whether class numbers are labels too."""
    names = _spelled({name: i for i, name in enumerate(labels)})
    mapped = {key: names.get(name, names.get(label_text(name) or "")) for key, name in label_map}
    meanings = (*names.items(), *mapped.items())
    otherwise = any(is_score(name) or _counts_otherwise(name, i, len(labels)) for name, i in meanings)
    return {**names, **_spelled(mapped)}, not otherwise


def is_score(name: str) -> bool:
    """Whether a name is a finite number in any notation."""
    score = score_of(name)
    return score is not None and math.isfinite(score)


def _counts_otherwise(name: str, number: int | None, classes: int) -> bool:
    """Whether a name contains a different valid class number than its own, such as `1 star` for class 0."""
    found = DIGITS.search(name)
    return found is not None and len(found[0]) < 7 and number != int(found[0]) < classes


def _spelled(meanings: Mapping[str, int | None]) -> dict[str, int | None]:
    """Adds the canonical text of each name, except where two names share it."""
    read = [label_text(name) for name in meanings]
    alike = {text or "": meaning for text, meaning in zip(read, meanings.values(), strict=True) if read.count(text) == 1}
    return {**alike, **meanings}
