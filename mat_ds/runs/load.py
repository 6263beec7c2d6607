"""From defaults, a recipe and dotted overrides to one checked `RunConfig`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.packaged import RECIPES
from mat_ds.config.validation import drop, problems_of
from mat_ds.config.yaml_files import Tree, read_yaml
from mat_ds.errors import Problem, raise_if_any
from mat_ds.runs.options import RunConfig
from mat_ds.runs.plugins import not_loaded, plugins_of
from mat_ds.runs.trainer_names import renamed

DEMO_RECIPE = RECIPES.path("demo")


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
    return combine(recipe, *parse_overrides(overrides, RunConfig), demo_recipe)


def combine(
    recipe: Path | None, high: Tree, found: list[Problem], demo_recipe: Path | None = None
) -> tuple[RunConfig | None, list[Problem]]:
    """`read_run_config` of options that have been parsed.

    Args:
        recipe, demo_recipe: as there.
        high: the overrides as a nested mapping.
        found: what is wrong with them already.
    """
    if recipe is None and high.get("task", RunConfig.model_fields["task"].default) == "demo":
        recipe = demo_recipe
    if recipe:
        RECIPES.require(recipe, "--recipe")
    low = read_yaml(recipe) if recipe else {}
    default_method = RunConfig.model_fields["method"].default.name
    if method_name(high) not in (None, method_name(low) or default_method):
        low.pop("method", None)
    tree = merge(low, high)
    if isinstance(tree.get("method"), dict):
        tree["method"] = {"name": default_method, **tree["method"]}
    if missing := list(not_loaded(tree)):
        return None, [*found, *missing]
    try:
        return _with_plugins(RunConfig.model_validate(tree)), found
    except ValidationError as error:
        found += problems_of(error, RunConfig, renamed)
        for wrong in error.errors():
            drop(RunConfig, tree, wrong["loc"])
    try:
        return _with_plugins(RunConfig.model_validate(tree)), found
    except ValidationError:
        return None, found


def _with_plugins(run: RunConfig) -> RunConfig:
    """Says what the run's method and task come from now, whatever a recipe says they once came from."""
    return run.model_copy(update={"plugins": plugins_of(run)})
