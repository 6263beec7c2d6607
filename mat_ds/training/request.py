"""Reads what a command line asks for, and checks it as far as that takes no library: options, DeepSpeed's JSON, task, folders.

It imports no torch, so that a mistake is answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.config.overrides import given_twice
from mat_ds.config.packaged import add_file_arguments
from mat_ds.errors import Problem, UserError, collect_problems, raise_if_any
from mat_ds.models.source import check_place, hub_names, revision_problems
from mat_ds.ranks.launch import launcher_problems
from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_problems
from mat_ds.runs.ds_config import complete, json_problems, read_ds_config, serves
from mat_ds.runs.ds_types import idle
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.runs.options import RunConfig, combination_problems, task_problems
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.resume import find_resume, output_problems
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.examples import check_sources, train_splits
from mat_ds.tasks.hub import expect_from_hub
from mat_ds.tasks.manifest import Manifest
from mat_ds.tasks.own_data import task_of
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.display import add_display_arguments
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.units import whole
from mat_ds.tracking.trust import recipe_uri_problems

# At most one node's ranks may tokenise the data themselves, since each of them reads all of it from the same disk.
MOST_THAT_TOKENISE = 8

EXAMPLE = "mat-ds train --ranks 4 --recipe cola seed=1"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line of `mat-ds train` and launch/train.py; raises `UserError` if it is wrong."""
    parser = Parser("train", "Fine-tune a language model on DeepSpeed.", EXAMPLE, renamed)
    add_file_arguments(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument(
        "--ranks", type=whole, metavar="N", help="start N ranks on this machine, each on a GPU if it has some (1: this process)"
    )
    parser.add_argument("--dry_run", action="store_true", help="do everything up to the first step, write nothing, and stop")
    add_plugin_argument(parser)
    add_display_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the recipe")
    return parser.parse_intermixed_args(arguments)


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        parsed: its flags.
        run: the options; every `auto` of the method is replaced.
        tree, ds_config: DeepSpeed's JSON as written, and completed from the options.
        spec: the task.
        manifest: of the data, if they are a prepared folder.
        checkpoints: those to continue from, best first.
    """

    parsed: argparse.Namespace
    run: RunConfig
    tree: dict[str, Any]
    ds_config: dict[str, Any]
    spec: TaskSpec
    manifest: Manifest | None
    checkpoints: list[Path]

    @property
    def remarks(self) -> tuple[str, ...]:
        """Warnings about options that are valid but have no effect."""
        return *given_twice(self.parsed.overrides), *idle(self.tree, self.run.model.gather)


def read_request(arguments: Sequence[str], world: World) -> Request:
    """Reads and checks a command line of `mat-ds train`.

    Args:
        arguments: the command line.
        world: this rank.

    Raises:
        UserError: naming every problem found.
    """
    parsed = parse_arguments(arguments)
    load_plugins(parsed.plugin)
    found: list[Problem] = []
    run, wrong = collect_problems(found, read_run_config, parsed.recipe, parsed.overrides, DEMO_RECIPE) or (None, [])
    found += wrong
    tree = collect_problems(found, read_ds_config, parsed.ds_config)
    if run is None:
        raise UserError(*found)
    dropped = {problem.key for problem in wrong}
    if not dropped & {"train.batch_size", "train.micro_batch_size"}:
        found += (*combination_problems(run, world.size), *chain_problems(run, world))
    found += recipe_uri_problems(run.tracking.uri, parsed.recipe, parsed.overrides)
    refused = list(json_problems(tree, run, world)) if tree is not None else []
    completed = complete(tree, run, world) if tree is not None and not refused else {}
    if completed:
        able = serves(completed, run.model)
        refused += run.method.engine_problems(able)
        run = run.model_copy(update={"method": run.method.settled(able)})
    found += [*refused, *launcher_problems(), *output_problems(run)]
    spec = collect_problems(found, task_of, run.task, run.data) if "task" not in dropped else None
    found += task_problems(run, spec) if spec else ()
    unusable: list[Problem] = []
    manifest = collect_problems(unusable, check_sources, spec, run.data)
    if not (manifest or unusable) and world.size > MOST_THAT_TOKENISE:
        reason = f"is not prepared, and each of {world.size} ranks would read and tokenise all of it"
        fix = "run `mat-ds prepare <folder>` once with these options, and pass data.path=<folder> model.name=<folder>/model"
        unusable.append(Problem("data.path", run.data.path, reason, fix))
    found += unusable
    collect_problems(found, check_place, run.model.name)
    found += revision_problems(run.model)
    checkpoints = (collect_problems(found, find_resume, run, completed) if not dropped else None) or []
    raise_if_any(found)
    assert tree is not None and spec
    expect_from_hub(*hub_names(run.model.name, (task for task, *_ in train_splits(spec)), run.data.path))
    return Request(parsed, run, tree, completed, spec, manifest, checkpoints)
