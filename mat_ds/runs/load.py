"""Combines defaults, a recipe and dotted overrides into one validated `RunConfig`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mat_ds.config.overrides import parse_overrides
from mat_ds.config.packaged import RECIPES
from mat_ds.config.validation import drop, problems_of
from mat_ds.config.yaml_files import Tree, read_yaml
from mat_ds.errors import Problem, raise_if_any
from mat_ds.runs.options import RunConfig
from mat_ds.runs.plugins import not_loaded, plugins_of
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.own_data import name_problems, own_name

DEMO_RECIPE = RECIPES.path("demo")
# Options of earlier versions, which stand in the `config.yaml` of their runs, and the only value that still has a meaning.
GONE = {"method.delta_preconditioner": "none", "method.teacher_early_decay": 0.99, "data.shuffle": True}


def merge_options(low: Tree, high: Tree) -> Tree:
    """Merges two trees section by section; values of `high` win."""
    merged = dict(low)
    for key, value in high.items():
        below = low.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge_options(below, value)
        elif not isinstance(value, dict) or below is None:  # else `low` stays: validation reports what is wrong
            merged[key] = value
    return merged


def given(tree: Tree, key: str) -> Any:
    """The value of an option, such as `method.name`, in nested options; None if it is not there."""
    section, _, name = key.partition(".")
    options = tree.get(section)
    return options.get(name) if isinstance(options, dict) else None


def load_run_config(recipe: Path | None, overrides: Iterable[str], demo_recipe: Path | None = None) -> RunConfig:
    """`read_run_config`, but raises `UserError` if there are problems."""
    run, problems = read_run_config(recipe, overrides, demo_recipe)
    raise_if_any(problems)
    assert run is not None
    return run


def read_run_config(
    recipe: Path | None, overrides: Iterable[str], demo_recipe: Path | None = None
) -> tuple[RunConfig | None, list[Problem]]:
    """Combines defaults < recipe < overrides into one immutable `RunConfig`.

    If an override names another method than the recipe, the recipe's method options are dropped. If the recipe is the
    `config.yaml` of a run, which is not to go on, the new run gets a place of its own.

    Args:
        recipe: a YAML file of options that differ from the defaults, or None.
        overrides: dotted `key=value` arguments.
        demo_recipe: the recipe to use instead of None if the task is the built-in demo.

    Returns:
        The options, and a problem for every unknown key, wrong type and value out of range. If there are problems, the
        options are what remains without the wrong ones, so that they can be checked too; None if the rest is not valid either.

    Raises:
        UserError: if the recipe cannot be read.
    """
    return combine(recipe, *parse_overrides(overrides, RunConfig), demo_recipe)


def combine(
    recipe: Path | None, high: Tree, found: list[Problem], demo_recipe: Path | None = None
) -> tuple[RunConfig | None, list[Problem]]:
    """`read_run_config` for overrides that have been parsed already.

    Args:
        recipe, demo_recipe: as in `read_run_config`.
        high: the overrides as a nested mapping.
        found: problems found while parsing them.
    """
    own = given(high, "data.train")
    if recipe is None and not own and high.get("task", RunConfig.model_fields["task"].default) == "demo":
        recipe = demo_recipe
    if recipe:
        RECIPES.require(recipe, "--recipe")
    low = read_yaml(recipe) if recipe else {}
    forget_gone(low)
    if recipe and is_of_a_run(recipe) and given(high, "train.resume") in (None, "never"):
        forget_place(low)
    if own and not given(low, "data.train"):
        low.pop("task", None)  # a recipe for another task
    default_method = RunConfig.model_fields["method"].default.name
    if given(high, "method.name") not in (None, given(low, "method.name") or default_method):
        low.pop("method", None)
    tree = merge_options(low, high)
    if isinstance(tree.get("method"), dict):
        tree["method"] = {"name": default_method, **tree["method"]}
    if missing := list(not_loaded(tree)):
        return None, [*found, *missing]
    try:
        run = RunConfig.model_validate(tree)
    except ValidationError as error:
        found += problems_of(error, RunConfig, hint_at)
        for wrong in error.errors():
            drop(RunConfig, tree, wrong["loc"])
        try:
            run = RunConfig.model_validate(tree)
        except ValidationError:
            return None, found
    found += run.data.problems()
    if run.data.train:
        if "task" not in tree:
            run = run.model_copy(update={"task": own_name(run.data.train)})
        found += name_problems(run.task)
    return _with_plugins(run), found


def forget_gone(tree: Any) -> None:
    """Removes options of earlier versions from nested options, in place, if they have the value that still has a meaning."""
    for dotted, value in GONE.items():
        section, _, key = dotted.partition(".")
        options = tree.get(section) if isinstance(tree, dict) else None
        if isinstance(options, dict) and options.get(key) == value:
            del options[key]


def is_of_a_run(recipe: Path) -> bool:
    """Whether a recipe is the `config.yaml` that a run wrote of itself."""
    return recipe.name == "config.yaml" and (recipe.parent / "environment.json").exists()


def forget_place(tree: Tree) -> None:
    """Removes where a run is and from where it started, in place: a run with the same options is another one."""
    tree.pop("output_dir", None)
    if isinstance(tree.get("train"), dict):
        tree["train"].pop("resume", None)


def hint_at(key: str) -> str | None:
    """What to do about an unknown option that an earlier version or another program has; None for any other."""
    if key in GONE:
        return f"leave it out: it is always {json.dumps(GONE[key])} now; another value needs the mat_ds that began the run"
    return renamed(key)


def _with_plugins(run: RunConfig) -> RunConfig:
    """Sets `plugins` to the files that define the run's method and task now, ignoring what the recipe says."""
    return run.model_copy(update={"plugins": plugins_of(run)})
