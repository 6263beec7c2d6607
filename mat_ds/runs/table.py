"""Prints docs/options.md, generated from the options: `python -m mat_ds.runs.table > docs/options.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic import BaseModel

from mat_ds.config.section import nested
from mat_ds.methods import METHODS
from mat_ds.runs.options import RunConfig

INTRODUCTION = """# Options

Every option of a run, its default and its meaning. `section.option=value` on a command line wins over the recipe, the recipe
over the default; `config.yaml` in a run directory holds them all. A test keeps this page equal to the program:
`python -m mat_ds.runs.table` writes it. ZeRO stage, offload and precision are not here: they stand in the DeepSpeed JSON
(`--ds_config`, [clusters](clusters.md#deepspeed-configurations)).
"""
TITLES = {
    "data": "The data",
    "model": "The model",
    "model.lora": "Adapters",
    "optimizer": "The optimizer",
    "train": "Training",
    "tracking": "Tracking",
}
HEAD = "| option | default | meaning |\n|---|---|---|\n"


def options_page() -> str:
    """The page as Markdown: one table per section, then one per method."""
    parts = [INTRODUCTION, f"## The run\n\n{HEAD}{_option_rows('', RunConfig)}", *_section_tables("", RunConfig)]
    for name, method in METHODS.items():
        meaning = method.Settings.model_fields["name"].description
        parts.append(f"## `method.name={name}`\n\n{meaning}\n\n{HEAD}{_option_rows('method.', method.Settings)}")
    return "\n".join(parts)


def _section_tables(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if key in TITLES and (inner := nested(field)):
            yield f"## {TITLES[key]}\n\n{HEAD}{_option_rows(f'{key}.', inner)}"
            yield from _section_tables(f"{key}.", inner)


def _option_rows(prefix: str, section: type[BaseModel]) -> str:
    """One table line per option of a section. A nested section gets a line only if it is optional."""
    lines = ""
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel) or (prefix == "method." and name == "name"):
            continue
        choices = [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
        meaning = ", ".join(choices) + ": " if len(choices) > 1 else ""
        lines += f"| `{prefix}{name}` | `{json.dumps(field.default)}` | {meaning}{field.description} |\n"
    return lines or "| - | - | it has none |\n"


if __name__ == "__main__":
    print(options_page(), end="")
