"""All options as tables: for docs/options.md (`python -m mat_ds.runs.table > docs/options.md`) and for `mat-ds options`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from mat_ds.config.section import nested
from mat_ds.methods import METHODS
from mat_ds.runs.options import RunConfig

INTRODUCTION = """# Options

Every option of a run, its default and its meaning. `section.option=value` on a command line wins over the recipe, the recipe
over the default; `config.yaml` in a run directory holds them all. A test keeps this page equal to the program:
`python -m mat_ds.runs.table` writes it, and `mat-ds options` prints it. ZeRO stage, offload and precision are not here: they
stand in the DeepSpeed JSON (`--ds_config`, [clusters](clusters.md#deepspeed-configurations)).
"""
TITLES = {
    "data": "The data",
    "model": "The model",
    "model.lora": "Adapters",
    "optimizer": "The optimizer",
    "sampling": "Samples of a posterior",
    "train": "Training",
    "train.early_stopping": "Early stopping",
    "data.augment": "Augmentation",
    "loss": "The loss",
    "tracking": "Tracking",
}
HEAD = "| option | default | meaning |\n|---|---|---|\n"


class OptionRow(NamedTuple):
    """An option: its dotted key, its default as JSON, its meaning."""

    key: str
    default: str
    meaning: str


@dataclass(frozen=True)
class OptionGroup:
    """The options of a section, or of a method.

    Attributes:
        key: the section's, or the method's name; empty for the options outside all sections.
        title: of the group.
        rows: its options.
        method: whether it is a method's.
    """

    key: str
    title: str
    rows: tuple[OptionRow, ...]
    method: bool = False


def option_groups() -> Iterator[OptionGroup]:
    """Yields the sections, then the methods, in the order in which they are shown."""
    yield OptionGroup("", "The run", tuple(_option_rows("", RunConfig)))
    yield from _sections("", RunConfig)
    for name, method in METHODS.items():
        title = str(method.Settings.model_fields["name"].description)
        yield OptionGroup(name, title, tuple(_option_rows("method.", method.Settings)), method=True)


def options_page() -> str:
    """The page as Markdown: one table per section, then one per method."""
    parts = [INTRODUCTION]
    for group in option_groups():
        head = f"## `method.name={group.key}`\n\n{group.title}\n" if group.method else f"## {group.title}\n"
        lines = [f"| `{row.key}` | `{row.default}` | {row.meaning} |\n" for row in group.rows] or ["| - | - | it has none |\n"]
        parts.append(f"{head}\n{HEAD}{''.join(lines)}")
    return "\n".join(parts)


def _sections(prefix: str, section: type[BaseModel]) -> Iterator[OptionGroup]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        if key in TITLES and (inner := nested(field)):
            yield OptionGroup(key, TITLES[key], tuple(_option_rows(f"{key}.", inner)))
            yield from _sections(f"{key}.", inner)


def _option_rows(prefix: str, section: type[BaseModel]) -> Iterator[OptionRow]:
    """Yields the options of a section. A nested section is one only if it is optional."""
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel) or (prefix == "method." and name == "name"):
            continue
        choices = [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []
        meaning = ", ".join(choices) + ": " if len(choices) > 1 else ""
        yield OptionRow(f"{prefix}{name}", json.dumps(field.default), f"{meaning}{field.description}")


if __name__ == "__main__":
    print(options_page(), end="")
