"""`mat-ds radius`: finds the smallest radius at which a method's perturbation, and not dropout, makes its divergence."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from mat_ds.artifacts.described import folder_of
from mat_ds.config.overrides import given_twice
from mat_ds.config.packaged import add_file_arguments
from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.ranks.exits import as_rank, attempt
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import Display, add_display_arguments
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing, run_process
from mat_ds.terminal.units import whole
from mat_ds.training.request import read_request

MEANING = "The smallest radius at which R is more than three times dropout's, and whose direction the precision keeps:"
EXAMPLE = "mat-ds radius runs/vanilla method.name=mat method.dropout=off"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command in this process and returns its exit code."""
    return as_rank(lambda world: _radius(arguments, world))


def _radius(arguments: Sequence[str], world: World) -> ExitCode:
    if world.size > 1:
        raise UserError(Problem("ranks", world.size, "a radius is measured by one process", "start it without a launcher"))
    parsed = parse(arguments)
    share_processors(world.local_size)
    with LibraryLogs(kept=True):
        request = read_request(training_arguments(parsed), world)
        with importing(not parsed.quiet):  # only now, as it takes seconds
            from mat_ds.engine.group import process_group
            from mat_ds.planning.choice import choose_micro_batch
            from mat_ds.training.preflight import load_setup
            from mat_ds.training.radius import options_at, radius_problems, search, smallest, table_rows

        settings = request.run.method
        raise_if_any(radius_problems(settings))
        setup = load_setup(request, world, choose_micro_batch)
        display = Display(True, parsed.quiet, parsed.json)
        with process_group(world) as device:

            def work() -> None:
                points = search(setup, device, parsed.steps, parsed.examples, parsed.radii, display)
                found = smallest(points)
                lines = {name: options_at(settings, radius) for name, radius in found.items() if radius}
                if parsed.json:
                    rows = [{**vars(point), "ratio": point.ratio} for point in points]
                    display.conclude(json.dumps({"points": rows, "smallest": found, "options": lines}))
                    return
                said = [f"{name}: {lines.get(name, 'none of these radii')}" for name in found]
                display.conclude("\n".join([table_text(table_rows(points)), "", MEANING, *said]))

            return attempt(work, world, "The model overflows: try a --ds_config without fp16.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is wrong."""
    parser = Parser("radius", __doc__, EXAMPLE)
    add_file_arguments(parser)
    add_plugin_argument(parser)
    parser.add_argument(
        "--steps", type=int, default=0, metavar="N", help="steps of plain fine-tuning before: at a new head R says little (0)"
    )
    parser.add_argument(
        "--examples", type=whole, default=64, metavar="N", help="training examples to look at, at least (%(default)s)"
    )
    parser.add_argument(
        "--radii", default="", metavar="R,R,...", help="the radii to measure (1e-5, 2e-5, 5e-5, ... until enough)"
    )
    add_display_arguments(parser)
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a finished run, whose model, task and data are taken, and of --recipe the method"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options of the run, which win over the recipe")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.run is not None and "=" in parsed.run:
        parsed.run, parsed.overrides = None, [parsed.run, *parsed.overrides]
    try:
        parsed.radii = [float(radius) for radius in parsed.radii.split(",") if radius]
    except ValueError:
        parser.error(f"--radii {parsed.radii}: not numbers")
    if parsed.steps < 0 or not all(0 < radius < float("inf") for radius in parsed.radii):
        parser.error("--steps is at least 0, and --radii are positive")
    return parsed


def training_arguments(parsed: argparse.Namespace) -> list[str]:
    """The command line of the training whose method is looked at: of a run its options, of a recipe beside it the method.

    Raises:
        UserError: if the run cannot be read, or the options name another model.
    """
    recipe, overrides = parsed.recipe, list(parsed.overrides)
    if parsed.run is not None:
        recipe, own = _of_run(Path(parsed.run), overrides), method_of(parsed.recipe, overrides) if parsed.recipe else []
        overrides = [f"model.name={folder_of(Path(parsed.run))}", *own, *overrides]
    if not any(word.startswith("tracking.uri=") for word in overrides):
        overrides.append("tracking.uri=none")
    for remark in given_twice(parsed.overrides):
        Display(True).warn(remark)
    plugins = [word for plugin in parsed.plugin for word in ("--plugin", str(plugin))]
    flags = [*(["--recipe", str(recipe)] if recipe else []), "--ds_config", str(parsed.ds_config), *plugins]
    return [*flags, *(["--json"] if parsed.json else ["--quiet"] if parsed.quiet else []), *overrides]


def _of_run(path: Path, overrides: Sequence[str]) -> Path:
    """The options of the run at a path, or of that whose `model/` folder it is."""
    if any(word.startswith("model.name=") for word in overrides):
        raise UserError(Problem("model.name", None, f"and {path} both name a model", "leave one of the two out"))
    folder = folder_of(path)
    rundir = RunDirectory(folder.parent)
    if not (rundir.holds_a_run and folder.name == rundir.model.name):
        reason = "is a model and no run of mat_ds, so its task and data are not known"
        raise UserError(Problem("run", str(path), reason, f"pass model.name={path} and the options of the task"))
    return rundir.config


def method_of(recipe: Path, overrides: Sequence[str]) -> list[str]:
    """The method of a recipe as overrides, without what is overridden; nothing if another method is."""
    options = read_yaml(recipe).get("method")
    given = dict(word.partition("=")[::2] for word in overrides)
    if not isinstance(options, dict) or given.get("method.name", options.get("name", "mat")) != options.get("name", "mat"):
        return []
    texts = {f"method.{name}": value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return [f"{name}={text}" for name, text in {"method.name": "mat", **texts}.items() if name not in given]


if __name__ == "__main__":
    run_process(main)
