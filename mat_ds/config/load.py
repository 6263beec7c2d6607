"""From defaults, a recipe and dotted overrides to one checked `RunConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.schema import RunConfig
from mat_ds.config.section import nested
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, nearest, raise_if_any
from mat_ds.methods import METHODS

DEMO_RECIPE = Path(__file__).parents[2] / "launch" / "recipes" / "demo.yaml"

Tree = dict[str, Any]
Schema = TypeVar("Schema", bound=BaseModel)


def merge(low: Tree, high: Tree) -> Tree:
    """`low` overridden by `high`, section by section."""
    merged = dict(low)
    for key, value in high.items():
        below = low.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(below, value)
        elif not isinstance(value, dict) or below is None:  # else what is wrong with the lower one is to be found
            merged[key] = value
    return merged


def method_name(tree: Tree) -> str | None:
    section = tree.get("method")
    return section.get("name") if isinstance(section, dict) else None


def load_run_config(recipe: Path | None, overrides: Iterable[str], demo_recipe: Path | None = None) -> RunConfig:
    """`read_run_config`, raising `UserError` where there is any problem."""
    run, problems = read_run_config(recipe, overrides, demo_recipe)
    raise_if_any(problems)
    assert run is not None
    return run


def read_run_config(
    recipe: Path | None, overrides: Iterable[str], demo_recipe: Path | None = None
) -> tuple[RunConfig | None, list[Problem]]:
    """Defaults < recipe < overrides, as one immutable `RunConfig`.

    A recipe's method options belong to the method it names: where an override names another method, they do not apply.

    Args:
        recipe: a YAML file of differences from the defaults, or None.
        overrides: dotted `key=value` arguments.
        demo_recipe: the recipe that stands in for None when the task is the built-in demo.

    Returns:
        The options and every unknown key, wrong type and value out of range. Where there are any, the options are the
        rest of what was given, so that it can be checked too; None if that is none.

    Raises:
        UserError: if the recipe cannot be read.
    """
    high, found = parse_overrides(overrides)
    if recipe is None and high.get("task", RunConfig.model_fields["task"].default) == "demo":
        recipe = demo_recipe
    low = read_yaml(recipe) if recipe else {}
    default_method = RunConfig.model_fields["method"].default.name
    if method_name(high) not in (None, method_name(low) or default_method):
        low.pop("method", None)
    tree = merge(low, high)
    if isinstance(tree.get("method"), dict):
        tree["method"] = {"name": default_method, **tree["method"]}
    try:
        return RunConfig.model_validate(tree), found
    except ValidationError as error:
        found += _problems(error)
        for wrong in error.errors():
            _drop(tree, wrong["loc"])
    try:
        return RunConfig.model_validate(tree), found
    except ValidationError:
        return None, found


def read_options(schema: type[Schema], overrides: Iterable[str]) -> Schema:
    """Dotted `key=value` arguments as options of a command that has no recipe.

    Raises:
        UserError: naming every unknown key, wrong type and value out of range.
    """
    tree, found = parse_overrides(overrides, schema)
    try:
        options = schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(*found, *_problems(error, schema)) from None
    raise_if_any(found)
    return options


def _drop(tree: Tree, where: tuple[int | str, ...]) -> None:
    """Takes the option at a place named by pydantic out of the tree."""
    *parents, leaf = _option(where)
    for parent in parents:
        tree = tree.get(parent, {})
    tree.pop(leaf, None)


def _option(where: tuple[int | str, ...]) -> list[str]:
    """The keys that lead to the option at a place named by pydantic, which puts a method's name between `method` and its
    option, and an index behind a list."""
    keys = [part for part in where if isinstance(part, str)]
    return [keys[0], *keys[2:]] if keys[0] == "method" and len(keys) > 1 and keys[1] in METHODS else keys


def _problems(error: ValidationError, schema: type[BaseModel] = RunConfig) -> Iterator[Problem]:
    """What pydantic found, in the words of this project."""
    for found in error.errors():
        location = _known(schema, _option(found["loc"]))
        key, value = ".".join(location), found["input"]
        if found["type"] == "extra_forbidden":
            section = _section(schema, location[:-1], found["loc"])
            yield Problem(key, value, "there is no such option", nearest(location[-1], section.model_fields))
        elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
            yield Problem("method.name", (value or {}).get("name"), "there is no such method",
                          nearest(str((value or {}).get("name")), METHODS))  # fmt: skip
        else:
            number = found["type"] == "string_type" and isinstance(value, (bool, int, float))
            fix = "put quotes around it in a recipe; " if number else ""
            yield Problem(key, value, found["msg"].lower(), fix + _describe(schema, location, found["loc"]))


def _known(schema: type[BaseModel], location: list[str]) -> list[str]:
    """A location without what lies inside one option, such as the tag of a run."""
    for depth, part in enumerate(location[:-1], 1):
        if location[0] == "method" or part not in schema.model_fields:
            break
        if not (inner := nested(schema.model_fields[part])):
            return location[:depth]
        schema = inner
    return location


def _section(schema: type[BaseModel], location: list[str], raw: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose options stand at `location`."""
    if location[:1] == ["method"]:
        return METHODS[str(raw[1])].Settings
    for part in location:
        schema = nested(schema.model_fields[part]) or schema
    return schema


def _describe(schema: type[BaseModel], location: list[str], raw: tuple[int | str, ...]) -> str:
    """Meaning and default of the option at `location`, as the way out."""
    field = _section(schema, location[:-1], raw).model_fields[location[-1]]
    if nested(field):
        return f"write {'.'.join(location)}.<option>=<value>"
    return f"{location[-1]} is: {field.description}; its default is {field.default!r}"
