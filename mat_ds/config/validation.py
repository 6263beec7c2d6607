"""What pydantic finds wrong with options, in the words of this project, and with the way out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.section import choices, nested
from mat_ds.config.yaml_files import Tree
from mat_ds.errors import Problem, UserError, nearest, raise_if_any

Schema = TypeVar("Schema", bound=BaseModel)

# Where pydantic says something is: names of options, indices into lists, and the name that chose a section.
Place = tuple[int | str, ...]


def read_options(schema: type[Schema], overrides: Iterable[str]) -> Schema:
    """Dotted `key=value` arguments as options of a command that has no recipe.

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
    """Every unknown key, wrong type and value out of range.

    Args:
        renamed: a hint at an unknown key, where another program has an option of that name.
    """
    for found in error.errors():
        location = _known(schema, _keys(schema, found["loc"]))
        key, value = ".".join(location), found["input"]
        if found["type"] == "extra_forbidden":
            section = _section(schema, location[:-1], found["loc"])
            yield Problem(key, value, "there is no such option", renamed(key) or nearest(location[-1], section.model_fields))
        elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
            name, known = (value or {}).get("name"), choices(schema.model_fields[location[0]])
            yield Problem(f"{key}.name", name, f"there is no such {key}", nearest(str(name), known))
        else:
            number = found["type"] == "string_type" and isinstance(value, (bool, int, float))
            fix = "put quotes around it in a recipe; " if number else ""
            yield Problem(key, value, found["msg"].lower(), fix + _describe(schema, location, found["loc"]))


def drop(schema: type[BaseModel], tree: Tree, where: Place) -> None:
    """Takes the option at a place named by pydantic out of the tree."""
    *parents, leaf = _keys(schema, where)
    for parent in parents:
        tree = tree.get(parent, {})
    tree.pop(leaf, None)


def _keys(schema: type[BaseModel], where: Place) -> list[str]:
    """The keys that lead to the option at a place named by pydantic, which puts the name that chose a section before its
    options, and an index behind a list."""
    keys = [part for part in where if isinstance(part, str)]
    chosen = len(keys) > 1 and keys[0] in schema.model_fields and keys[1] in choices(schema.model_fields[keys[0]])
    return [keys[0], *keys[2:]] if chosen else keys


def _known(schema: type[BaseModel], location: list[str]) -> list[str]:
    """A location without what lies inside one option, such as the tag of a run."""
    for depth, part in enumerate(location[:-1], 1):
        if part not in schema.model_fields or choices(schema.model_fields[part]):
            break
        if not (inner := nested(schema.model_fields[part])):
            return location[:depth]
        schema = inner
    return location


def _section(schema: type[BaseModel], location: list[str], raw: Place) -> type[BaseModel]:
    """The section whose options stand at `location`."""
    for part in location:
        if kinds := choices(schema.model_fields[part]):
            return kinds[str(raw[1])]
        schema = nested(schema.model_fields[part]) or schema
    return schema


def _describe(schema: type[BaseModel], location: list[str], raw: Place) -> str:
    """Meaning and default of the option at `location`, as the way out."""
    field = _section(schema, location[:-1], raw).model_fields[location[-1]]
    if nested(field):
        return f"write {'.'.join(location)}.<option>=<value>"
    return f"{location[-1]} is: {field.description}; its default is {field.default!r}"
