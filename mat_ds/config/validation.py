"""Turns pydantic's validation errors into this project's `Problem`s, each with a fix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.section import choices, nested
from mat_ds.config.yaml_files import Tree
from mat_ds.errors import Problem, UserError, closest, nearest, raise_if_any

Schema = TypeVar("Schema", bound=BaseModel)

# A location as pydantic reports it: option names, list indices, and the name of a chosen section.
Place = tuple[int | str, ...]
# The option of a section that is meant where the section itself is given a text, as in model=roberta-base.
NAMING = ("name", "train", "path")


def read_options(schema: type[Schema], overrides: Iterable[str]) -> Schema:
    """Parses dotted `key=value` arguments of a command that has no recipe.

    Raises:
        UserError: naming every unknown key, wrong type and value out of range.
    """
    tree, found = parse_overrides(overrides, schema)
    try:
        options = schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(*found, *problems_of(error, schema)) from None
    raise_if_any(found)
    return options


def problems_of(
    error: ValidationError, schema: type[BaseModel], renamed: Callable[[str], str | None] = lambda key: None
) -> Iterator[Problem]:
    """Yields a problem for every unknown key, wrong type and value out of range.

    Args:
        renamed: returns a hint for an unknown key that another program uses, or None.
    """
    for found in error.errors():
        location = _option_location(schema, _option_keys(schema, found["loc"]))
        key, value = ".".join(location), found["input"]
        if found["type"] == "extra_forbidden":
            section = _section_at(schema, location[:-1], found["loc"])
            yield Problem(key, value, "there is no such option", renamed(key) or _meant(location[-1], section, schema))
        elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
            name, known = (value or {}).get("name"), choices(schema.model_fields[location[0]])
            yield Problem(f"{key}.name", name, f"there is no such {key}", nearest(str(name), known))
        elif inner := nested(_section_at(schema, location[:-1], found["loc"]).model_fields[location[-1]]):
            fix = next(
                _told_by_value(key, value, inner, schema),
                f"{key}.<option>=<value>, with one of: {', '.join(inner.model_fields)}",
            )
            yield Problem(key, value, "is a section of options, not one of them", f"write {fix}")
        else:
            reason = "is not a list" if found["type"] == "tuple_type" else found["msg"].lower()
            fix = (_form(found["type"], value) or meant_choice(found)) + _describe(schema, location, found["loc"])
            yield Problem(key, value, reason, fix)


def _told_by_value(key: str, value: object, section: type[BaseModel], schema: type[BaseModel]) -> Iterator[str]:
    """Yields the options that may be meant where a section was given a text: `data.train=my.csv` for `data=my.csv`."""
    if isinstance(value, str):
        is_file = bool(Path(value).suffix)
        names = [name for name in NAMING if name in section.model_fields and (is_file or name != "train")]
        yield from (f"{key}.{name}={value}" for name in names)
        yield from (f"{path}={value}" for path in _paths(schema) if path.rpartition(".")[2] == key)


def _form(kind: str, value: object) -> str:
    """How a value of pydantic's error type is to be written, as the start of a fix; empty if that is not the problem."""
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "put quotes around it in a recipe; "
    if kind.startswith("int_") and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}; "
    return {"bool_type": "write true or false; ", "tuple_type": "write it as [a, b]; "}.get(kind, "")


def meant_choice(found: Any) -> str:
    """The allowed text most similar to the one that a pydantic error is about, as the start of a fix; empty if none is."""
    if found["type"] != "literal_error" or not isinstance(found["input"], str):
        return ""
    close = closest(found["input"], re.findall("'([^']*)'", found["ctx"]["expected"]))
    return f"did you mean {close!r}? " if close else ""


def _meant(name: str, section: type[BaseModel], schema: type[BaseModel]) -> str:
    """A hint at an unknown option of a section: one of its name in another section, or of a similar name."""
    everywhere = list(dict.fromkeys(_paths(schema)))
    if same := [path for path in everywhere if path.rpartition(".")[2] == name]:
        return f"write {' or '.join(same)}"
    if section is not schema or closest(name, section.model_fields):
        return nearest(name, section.model_fields)
    leaf = closest(name, (path.rpartition(".")[2] for path in everywhere))
    similar = [path for path in everywhere if path.rpartition(".")[2] == leaf]
    return f"did you mean {' or '.join(similar)}?" if similar else nearest(name, section.model_fields)


def _paths(schema: type[BaseModel], above: str = "") -> Iterator[str]:
    """Yields the dotted names of all options."""
    for name, field in schema.model_fields.items():
        inner = nested(field)
        for section in choices(field).values() or ([inner] if inner else []):
            yield from _paths(section, f"{above}{name}.")
        if not inner:
            yield f"{above}{name}"


def drop(schema: type[BaseModel], tree: Tree, where: Place) -> None:
    """Removes from the tree the option at a location that pydantic reported."""
    *parents, leaf = _option_location(schema, _option_keys(schema, where))
    for parent in parents:
        tree = tree.get(parent, {})
    tree.pop(leaf, None)


def _option_keys(schema: type[BaseModel], where: Place) -> list[str]:
    """The option's keys in a location of pydantic's, which also contains names of chosen sections and list indices."""
    keys = [part for part in where if isinstance(part, str)]
    chosen = len(keys) > 1 and keys[0] in schema.model_fields and keys[1] in choices(schema.model_fields[keys[0]])
    return [keys[0], *keys[2:]] if chosen else keys


def _option_location(schema: type[BaseModel], location: list[str]) -> list[str]:
    """The location cut off at the option itself, without keys inside a dictionary option such as a run's tag."""
    for depth, part in enumerate(location[:-1], 1):
        if part not in schema.model_fields:
            break
        if choices(schema.model_fields[part]):
            return location[: depth + 1]
        if not (inner := nested(schema.model_fields[part])):
            return location[:depth]
        schema = inner
    return location


def _section_at(schema: type[BaseModel], location: list[str], raw: Place) -> type[BaseModel]:
    """The section that contains the options at `location`."""
    for part in location:
        if kinds := choices(schema.model_fields[part]):
            return kinds[str(raw[1])]
        schema = nested(schema.model_fields[part]) or schema
    return schema


def _describe(schema: type[BaseModel], location: list[str], raw: Place) -> str:
    """Meaning and default of the option at `location`, as the fix of a problem."""
    field = _section_at(schema, location[:-1], raw).model_fields[location[-1]]
    return f"{location[-1]} is: {field.description}; its default is {field.default!r}"
