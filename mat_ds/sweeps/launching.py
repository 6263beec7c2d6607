"""Builds the command lines with which a sweep starts its trainings."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.config.packaged import HOME, add_file_arguments
from mat_ds.errors import Problem, UserError, collect_problems
from mat_ds.ranks.ports import free_port
from mat_ds.runs.ds_config import read_ds_config
from mat_ds.runs.load import DEMO_RECIPE, forget_gone, load_run_config, read_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.resume import changes
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import add_display_arguments
from mat_ds.terminal.parser import add_plugin_argument
from mat_ds.tracking.trust import recipe_uri_problems

# A script, because not every launcher can start a module.
LAUNCH_SCRIPT = HOME / "launch" / "train.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the commands that start trainings (`sweep`, `seeds`)."""
    add_file_arguments(parser)
    parser.add_argument(
        "--launcher",
        metavar="COMMAND",
        help='what starts each training, like "deepspeed --num_gpus 2"; '
        "default: deepspeed on all GPUs, or one process where there is none",
    )
    add_plugin_argument(parser)
    add_display_arguments(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="options that win over the recipe; output_dir is the folder of them all",
    )


@dataclass(frozen=True)
class Launching:
    """What all trainings of a sweep have in common.

    Attributes:
        launcher: the words of the command line before the path of launch/train.py.
        ds_config, recipe, overrides, plugins: arguments of launch/train.py.
        run: the options that result from them.
    """

    launcher: Sequence[str]
    ds_config: Path
    recipe: Path | None
    overrides: Sequence[str]
    run: RunConfig
    plugins: Sequence[Path] = ()

    def command(self, folder: Path, options: Sequence[str]) -> list[str]:
        """The command line that starts or continues one training.

        Args:
            folder: its run directory.
            options: `key=value` arguments that override all others.
        """
        recipe = ["--recipe", str(self.recipe)] if self.recipe else []
        recipe += [word for plugin in self.plugins for word in ("--plugin", str(plugin))]
        own = [*options, f"output_dir={folder}", "train.resume=auto"]
        prefixes = tuple(f"{option.partition('=')[0]}{end}" for option in own for end in "=.")
        given = [*(option for option in self.overrides if not option.startswith(prefixes)), *own]
        return [*_with_port(self.launcher), str(LAUNCH_SCRIPT), "--ds_config", str(self.ds_config), *recipe, *given]

    def options(self, options: Sequence[str]) -> RunConfig:
        """All options of one training, given its own `key=value` arguments."""
        return load_run_config(self.recipe, [*self.overrides, *options], DEMO_RECIPE)

    def problems(self, options: Sequence[str]) -> list[Problem]:
        """The problems of a training's own `key=value` arguments, together with the common ones."""
        return read_run_config(self.recipe, [*self.overrides, *options], DEMO_RECIPE)[1]

    def foreign(self, options: Sequence[str], folder: Path) -> Iterator[Problem]:
        """Yields a problem for each option that differs between the run in a folder and the training to be started there.

        Args:
            options: the training's own `key=value` arguments.
            folder: its run directory, which may be empty.
        """
        for key, (old, new) in changes(self.options(options), RunDirectory(folder)).items():
            # `auto` gets its value once the engine is known. The training itself compares that value.
            if key not in ("output_dir", "train.resume") and not key.startswith("tracking.") and new != "auto":
                yield Problem(key, new, f"the run in {folder} has {old!r}", "pass the same, or another output_dir")

    @property
    def definition(self) -> dict[str, Any]:
        """The options that must stay the same for the trainings to be comparable, as a JSON object."""
        run = self.run.model_dump(mode="json", exclude={"output_dir", "tracking"})
        run["train"].pop("resume")
        if not run["plugins"]:  # studies of earlier versions do not have this option
            del run["plugins"]
        return {"ds_config": read_ds_config(self.ds_config), "options": run}


def read_launching(parsed: argparse.Namespace, own: Sequence[str]) -> Launching:
    """Reads the arguments that `add_arguments` has added.

    Args:
        parsed: the parsed command line.
        own: options that the command sets itself; they may not be given.

    Raises:
        UserError: naming every problem found.
    """
    load_plugins(parsed.plugin)
    run, found = read_run_config(parsed.recipe, parsed.overrides, DEMO_RECIPE)
    collect_problems(found, read_ds_config, parsed.ds_config)
    found += _launcher_problems(parsed.launcher)
    for argument in parsed.overrides:
        if (key := argument.partition("=")[0]) in own:
            found.append(Problem(key, argument.partition("=")[2], "is set for each training by this command", "leave it out"))
    if run:
        found += run.tracking.problems()
        # The address is passed on each training's command line and trusted there, so it must be checked here.
        found += recipe_uri_problems(run.tracking.uri, parsed.recipe, parsed.overrides)
    if found or run is None:
        raise UserError(*found)
    return Launching(_words(parsed.launcher), parsed.ds_config, parsed.recipe, tuple(parsed.overrides), run, parsed.plugin)


def _launcher_problems(launcher: str | None) -> Iterator[Problem]:
    try:
        if not shlex.split("python" if launcher is None else launcher):
            yield Problem("--launcher", launcher, "does not name a program", 'pass one such as "deepspeed --num_gpus 2"')
    except ValueError as error:
        yield Problem("--launcher", launcher, f"cannot be read as a shell would: {error}", "close its quotes")


def _words(launcher: str | None) -> list[str]:
    if launcher is not None:
        return shlex.split(launcher)
    import torch

    return ["deepspeed", "--quiet"] if torch.cuda.is_available() else [sys.executable]


def _with_port(launcher: Sequence[str]) -> list[str]:
    """Adds a port of its own to a launcher of one node, so that several can run beside each other."""
    words = list(launcher)
    if Path(words[0]).name != "deepspeed" or {"--master_port", "--hostfile", "-H"} & {word.partition("=")[0] for word in words}:
        return words
    return [words[0], "--master_port", str(free_port()), *words[1:]]


def redefined(before: dict[str, Any], now: dict[str, Any], what: str) -> list[Problem]:
    """The problems of a definition that differs from the one that a folder was started with.

    Args:
        before, now: the two definitions.
        what: name of what is in the folder, for the message.
    """
    fix = "take it back, or start anew with another output_dir"
    forget_gone(before.get("options"))
    old, new = flatten(before), flatten(now)
    changed = (key for key in {**old, **new} if old.get(key) != new.get(key))
    return [Problem(key, new.get(key), f"{what} has {old.get(key)!r}", fix) for key in changed]
