"""Nested options by dotted keys, as the command line writes them."""

from __future__ import annotations

from typing import Any


def flatten(tree: dict[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """`{"train": {"epochs": 3}}` as `{"train.epochs": 3}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        flat |= flatten(value, separator, f"{prefix}{key}{separator}") if inner else {f"{prefix}{key}": value}
    return flat
