"""What the label of a row means, the same whatever the file it was read from.

A label is what it reads as: csv knows nothing but text, JSON and Parquet also numbers and booleans, and all three must say
the same class. A number is a number as JSON writes one: 1, 1.0 and 1e0 are one label, 01 is a name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.spec import TaskSpec

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
# What `float` takes, but for 1_0 and the digits of other scripts.
SCORE = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)")
# A number in a name, in the digits of any script.
DIGITS = re.compile(r"\d+")
# No label has more digits; `int` and `float` would be slow with thousands of them, or refuse.
LONGEST_NUMBER = 40
# As many as a message has room for.
SHOWN = 20
# Beyond it, a float does not know its last digit.
EXACT = 2**53


def label_text(value: Any) -> str | None:
    """A label as text, the same for every form it may have in a file; None for what can be no label.

    Args:
        value: a text, a number or a boolean.
    """
    if not isinstance(value, str | int | float | Decimal):  # a boolean is an integer to Python
        return None
    if isinstance(value, int) and abs(value) >= 10**LONGEST_NUMBER:
        return None
    if not isinstance(value, str) and not math.isfinite(value):  # NaN is what tables make of a label that is not there
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
    """Whether a label reads as a number."""
    return len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text.strip()) is not None


def score_of(value: Any) -> float | None:
    """The score that a label stands for, NaN and infinities included; None where it is no number."""
    if isinstance(value, str) and not SCORE.fullmatch(value.strip().lower()):
        return None
    try:
        return None if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def class_of(spec: TaskSpec, value: Any) -> int | None:
    """The class that a label names: by `label_map`, by its name, or by its number; None where it names none.

    The number of a class is a label only where no name and no key of `label_map` is a number itself or counts otherwise: in a
    task of the labels 1 to 5, 0 must not be taken for the first, nor 1 for `2 stars`.
    """
    text = label_text(value)
    if text is None:
        return None
    known, numbered = _meanings(spec.labels, tuple(spec.label_map.items()))
    for spelling in (value, text):
        if isinstance(spelling, str) and spelling in known:
            return known[spelling]
    # No task has a million classes.
    is_index = numbered and len(text) <= 6 and text.isdecimal() and is_number(text) and int(text) < len(spec.labels)
    return int(text) if is_index else None


def is_named(spec: TaskSpec, value: str) -> bool:
    """Whether a label is a name of a class or a key of `label_map`, not only its number."""
    known, _ = _meanings(spec.labels, tuple(spec.label_map.items()))
    return value in known or label_text(value) in known


def class_names(spec: TaskSpec, names: list[str], where: str) -> list[str] | None:
    """The labels that stand for the classes of a column which numbers them in an order of its own.

    Args:
        names: of the column's classes, in its order.
        where: what a message calls the file.

    Returns:
        None where the names say no more than the numbers.

    Raises:
        UserError: if they are no labels of the task.
    """
    named = [name for name in names if is_named(spec, name)]
    if are_numbers(names) and not named:
        return None
    if not named or any(is_number(name) for name in names if name not in named):
        shown = ", ".join(map(repr, names[:SHOWN]))
        raise UserError(Problem(where, shown, f"the classes of its label column are none of {known_labels(spec)}",
                                "say in the task's label_map which label each of them is"))  # fmt: skip
    return names


def are_numbers(names: list[str]) -> bool:
    """Whether the names of classes say no more than their numbers."""
    return all(name.lower() in (str(i), f"label_{i}", f"class_{i}") for i, name in enumerate(names))


def known_labels(spec: TaskSpec) -> str:
    """What a message says the labels of a task are: each with its number where that is a label too."""
    _, numbered = _meanings(spec.labels, tuple(spec.label_map.items()))
    known = [f"{i} ({name})" for i, name in enumerate(spec.labels)] if numbered else [*spec.labels, *spec.label_map]
    return ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")


@lru_cache(maxsize=64)
def _meanings(labels: tuple[str, ...], label_map: tuple[tuple[str, str], ...]) -> tuple[dict[str, int | None], bool]:
    """The class of each label as it is written and as it reads, and whether the number of a class is a label too."""
    names = _spelled({name: i for i, name in enumerate(labels)})
    mapped = {key: names.get(name, names.get(label_text(name) or "")) for key, name in label_map}
    meanings = (*names.items(), *mapped.items())
    otherwise = any(is_score(name) or _counts_otherwise(name, i, len(labels)) for name, i in meanings)
    return {**names, **_spelled(mapped)}, not otherwise


def is_score(name: str) -> bool:
    """Whether a name is a number, however it is written."""
    score = score_of(name)
    return score is not None and math.isfinite(score)


def _counts_otherwise(name: str, number: int | None, classes: int) -> bool:
    """Whether a name says that its class is that of another number, as those of `1 star` and `2 stars` would, or `grade_1`."""
    found = DIGITS.search(name)
    return found is not None and len(found[0]) < 7 and number != int(found[0]) < classes


def _spelled(meanings: Mapping[str, int | None]) -> dict[str, int | None]:
    """The same, also under what each name reads as, unless two names read alike."""
    read = [label_text(name) for name in meanings]
    alike = {text or "": meaning for text, meaning in zip(read, meanings.values(), strict=True) if read.count(text) == 1}
    return {**alike, **meanings}
