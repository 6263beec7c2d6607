"""The table of options in the README, written from the schema: `python -m mat_ds.runs.table`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from mat_ds.config.section import nested
from mat_ds.methods import METHODS
from mat_ds.runs.options import RunConfig


def options_table() -> str:
    """A Markdown table of every option, its default and its meaning."""
    lines = ["| option | default | meaning |", "|---|---|---|", *_rows("", RunConfig)]
    for method in METHODS.values():
        lines += _rows("method.", method.Settings)
    return "\n".join(lines) + "\n"


def _rows(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = None if name == "method" else nested(field)
        if not isinstance(field.default, BaseModel):
            choices = [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
            meaning = ", ".join(choices) + ": " if len(choices) > 1 else ""
            yield f"| `{prefix}{name}` | `{json.dumps(field.default)}` | {meaning}{field.description} |"
        if inner:
            yield from _rows(f"{prefix}{name}.", inner)


if __name__ == "__main__":
    print(options_table(), end="")
