"""Nested dictionaries as flat ones with dotted keys."""

from __future__ import annotations

from typing import Any


def flatten(tree: dict[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Turns `{"train": {"epochs": 3}}` into `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, separator, f"{prefix}{key}{separator}") if inner else {f"{prefix}{key}": value}
    return flat
