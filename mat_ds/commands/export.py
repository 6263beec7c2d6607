"""`mat-ds export`: writes a model to a self-contained folder of safetensors, config, tokenizer and card.

Adapters can be merged, the precision changed, or a checkpoint's weights or running average exported.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mat_ds.config.paths import argument
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.processors import share_processors
from mat_ds.registry.locate import MEANING, is_local, locate
from mat_ds.runs.plugins import load_plugins
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.folders import restore, write_folder
from mat_ds.storage.integrity import verify_checkpoint
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing

EXAMPLE = "mat-ds export runs/cola models/cola --merge --dtype float16"
WEIGHTS = ("raw", "average")


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    share_processors(1)
    return attempt(lambda: _export(parse(arguments)))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("export", __doc__, EXAMPLE)
    parser.add_argument(
        "model",
        metavar="MODEL",
        type=argument,
        help=f"{MEANING}; with --weights a run directory or one of its checkpoints",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="target folder; must be empty or not exist")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="take weights of the run's newest undamaged checkpoint: the parameters, or their "
        "running average (model.average); default: the weights in model/",
    )
    parser.add_argument("--merge", action="store_true", help="merge adapters into the weights of their base")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), default="float32", help="precision of the weights (%(default)s)"
    )
    add_plugin_argument(parser)
    return parser.parse_args(arguments)


def _export(parsed: argparse.Namespace) -> None:
    raise_if_any(_export_problems(parsed))
    load_plugins(parsed.plugin)
    checkpoint = _checkpoint_of(Path(parsed.model)) if parsed.weights else None
    source = RunDirectory(_run_of(Path(parsed.model))).model if checkpoint else locate(parsed.model)
    with importing():  # only now, as it takes seconds
        from mat_ds.artifacts.conversion import write_converted

    write_folder(parsed.out, lambda aside: write_converted(aside, source, checkpoint, parsed))
    print(parsed.out)


def _export_problems(parsed: argparse.Namespace) -> Iterator[Problem]:
    if parsed.out.exists() and not (parsed.out.is_dir() and not any(parsed.out.iterdir())):
        yield Problem("OUT", str(parsed.out), "exists and is not an empty folder", "name a new folder")
    if parsed.weights and not is_local(parsed.model):
        yield Problem(
            "--weights",
            parsed.weights,
            f"{parsed.model} is not a run directory, so it has no checkpoints",
            "pass runs/<run>, or leave --weights out",
        )


def _run_of(path: Path) -> Path:
    """The run directory of a path, which is a run or one of its checkpoints."""
    return path if RunDirectory(path).holds_a_run else path.absolute().parent.parent


def _checkpoint_of(path: Path) -> Path:
    """The newest undamaged checkpoint of a run, or the given checkpoint."""
    rundir = RunDirectory(_run_of(path))
    with suppress(OSError):  # another user's run may be read-only
        restore(rundir.model)
    found = next((checkpoint for checkpoint in checkpoints_of(path) if verify_checkpoint(checkpoint) is None), None)
    if not rundir.holds_a_run or found is None:
        raise UserError(
            Problem("MODEL", str(path), "has no undamaged checkpoint", "see `mat-ds verify`, or leave --weights out")
        )
    if not rundir.model.is_dir():
        raise UserError(Problem("MODEL", str(path), "the run has not exported a model yet", "let it evaluate once"))
    return found
