"""The choices of a question in a row of a file, and which of them is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any

from mat_ds.tasks.example import BLANK, MISSING, BadRow, excerpt, text_fault
from mat_ds.tasks.labels import label_text
from mat_ds.tasks.lists import FORM, list_of


def choices_in(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[list[Any] | None, list[str | None] | None]:
    """The choices in a row, and their labels if it has them: ARC and CommonsenseQA have {text: [...], label: [...]}."""
    if len(columns) > 1:
        return [row.get(column) for column in columns], None
    value = row.get(columns[0])
    names = value.get("label") if isinstance(value, Mapping) else None
    texts = list_of(value.get("text") if isinstance(value, Mapping) else value)
    return texts, [label_text(name) for name in names] if isinstance(names, list | tuple) else None


def choice_texts(row: Mapping[str, Any], columns: Sequence[str]) -> list[str] | BadRow:
    """The choices in a row, or the first fault found."""
    name, value = ", ".join(columns), choices_in(row, columns)[0]
    if value is None:
        return BadRow(MISSING, excerpt(row.get(name)), f"{name} is not {FORM}")
    if not 2 <= len(value) <= len(LETTERS):
        return BadRow(MISSING, excerpt(value), f"{name} has {len(value)} choices, not 2 to {len(LETTERS)}")
    for choice in value:
        if fault := text_fault(f"a choice in {name}", choice):
            return fault
        if not choice.strip():
            return BadRow(BLANK, excerpt(choice), f"a choice in {name} is blank")
    return value


def choice_number(value: Any) -> int:
    """The number of a choice, from 0, given by it or by its letter; raises `ValueError` if it is neither."""
    text = label_text(value) or ""
    if text.isdecimal() and len(text) < 3 and int(text) < len(LETTERS):
        return int(text)
    if len(text) == 1 and text.upper() in LETTERS:
        return LETTERS.index(text.upper())
    raise ValueError("the label is neither the number of a choice, from 0, nor its letter, from A")


def right_choice(value: Any, names: list[str | None] | None, count: int) -> int:
    """The number of the right choice, from 0; raises `ValueError` if there is no such choice.

    Args:
        value: of the label column.
        names: the labels of the choices, if the row gives them; `value` is then one of these.
        count: of choices.
    """
    if names is not None:
        if len(names) != count or len(set(names)) < count:
            raise ValueError("the labels of the choices are not one for each")
        if (text := label_text(value)) not in names:
            raise ValueError(f"the label is none of the choices' {', '.join(map(str, names))}")
        return names.index(text)
    if (number := choice_number(value)) >= count:
        raise ValueError(f"the label is none of the {count} choices: 0 to {count - 1}, or A to {LETTERS[count - 1]}")
    return number
