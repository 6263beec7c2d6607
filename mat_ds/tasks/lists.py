"""Values of list columns: the same in all file formats."""

from __future__ import annotations

import json
from typing import Any

# How a csv or tsv cell, or any other text, holds a list; shown in messages.
FORM = 'a list; in csv and tsv a JSON list, such as ["a", "b"] or []'


def list_of(value: Any) -> list[Any] | None:
    """The list that a value of a list column is.

    Args:
        value: a list, as in JSON and Parquet; or a text with a JSON list, as in csv and tsv.

    Returns:
        None if it is neither.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not value.strip().startswith("["):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None
