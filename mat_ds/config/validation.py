"""Turns pydantic's validation errors into this project's `Problem`s, each with a fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.section import choices, nested
from mat_ds.config.yaml_files import Tree
from mat_ds.errors import Problem, UserError, nearest, raise_if_any

Schema = TypeVar("Schema", bound=BaseModel)

# A location as pydantic reports it: option names, list indices, and the name of a chosen section.
Place = tuple[int | str, ...]


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
            yield Problem(key, value, "there is no such option", renamed(key) or nearest(location[-1], section.model_fields))
        elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
            name, known = (value or {}).get("name"), choices(schema.model_fields[location[0]])
            yield Problem(f"{key}.name", name, f"there is no such {key}", nearest(str(name), known))
        else:
            number = found["type"] == "string_type" and isinstance(value, (bool, int, float))
            fix = "put quotes around it in a recipe; " if number else ""
            yield Problem(key, value, found["msg"].lower(), fix + _describe(schema, location, found["loc"]))


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
        if part not in schema.model_fields or choices(schema.model_fields[part]):
            break
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
    if nested(field):
        return f"write {'.'.join(location)}.<option>=<value>"
    return f"{location[-1]} is: {field.description}; its default is {field.default!r}"
