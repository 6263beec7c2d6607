"""How the trainings of a sweep are started: the launcher, and the command line that all of them have in common."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.config.packaged import HOME, add_file_arguments
from mat_ds.engine.ds_config import read_ds_config
from mat_ds.errors import Problem, UserError, collect_problems
from mat_ds.ranks.ports import free_port
from mat_ds.runs.load import DEMO_RECIPE, load_run_config, read_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.runs.plugins import add_plugin_argument, load_plugins
from mat_ds.runs.resume import changes
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import add_display_arguments
from mat_ds.tracking.destination import uri_problems
from mat_ds.tracking.trust import recipe_uri_problems

# A script, since every launcher starts one.
DOOR = HOME / "launch" / "train.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that trains."""
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
    """What the trainings have in common.

    Attributes:
        launcher: the words before the path of launch/train.py.
        ds_config, recipe, overrides, plugins: its command line.
        run: the options these make.
    """

    launcher: Sequence[str]
    ds_config: Path
    recipe: Path | None
    overrides: Sequence[str]
    run: RunConfig
    plugins: Sequence[Path] = ()

    def command(self, folder: Path, options: Sequence[str]) -> list[str]:
        """Starts or continues the training in a folder.

        Args:
            folder: its run directory.
            options: `key=value` arguments that win over all others.
        """
        recipe = ["--recipe", str(self.recipe)] if self.recipe else []
        recipe += [word for plugin in self.plugins for word in ("--plugin", str(plugin))]
        own = [*options, f"output_dir={folder}", "train.resume=auto"]
        prefixes = tuple(f"{option.partition('=')[0]}{end}" for option in own for end in "=.")
        given = [*(option for option in self.overrides if not option.startswith(prefixes)), *own]
        return [*_with_port(self.launcher), str(DOOR), "--ds_config", str(self.ds_config), *recipe, *given]

    def options(self, options: Sequence[str]) -> RunConfig:
        """All options of one of the trainings."""
        return load_run_config(self.recipe, [*self.overrides, *options], DEMO_RECIPE)

    def problems(self, options: Sequence[str]) -> list[Problem]:
        """What is wrong with `key=value` arguments beside the others."""
        return read_run_config(self.recipe, [*self.overrides, *options], DEMO_RECIPE)[1]

    def foreign(self, options: Sequence[str], folder: Path) -> Iterator[Problem]:
        """Whether the run in a folder, if there is one, is another than the one that would be trained there.

        Args:
            options: `key=value` arguments beside the others.
        """
        for key, (old, new) in changes(self.options(options), RunDirectory(folder)).items():
            # An `auto` is settled when the engine is known, and the run compares it then.
            if key not in ("output_dir", "train.resume") and not key.startswith("tracking.") and new != "auto":
                yield Problem(key, new, f"the run in {folder} has {old!r}", "pass the same, or another output_dir")

    @property
    def definition(self) -> dict[str, Any]:
        """What must stay the same for trainings to be comparable, as JSON has it."""
        run = self.run.model_dump(mode="json", exclude={"output_dir", "tracking"})
        run["train"].pop("resume")
        if not run["plugins"]:  # what a study wrote down before there were any
            del run["plugins"]
        return {"ds_config": read_ds_config(self.ds_config), "options": run}


def read_launching(parsed: argparse.Namespace, own: Sequence[str]) -> Launching:
    """The common part of a command line.

    Args:
        parsed: with the arguments of `add_arguments`.
        own: options that the command sets itself.

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
        found += uri_problems("tracking.uri", run.tracking.uri)
        # Each training is told the address on its command line, where it is taken for its user's word.
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
