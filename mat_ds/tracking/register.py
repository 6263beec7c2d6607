"""`mat-ds register`: the model of a finished run as a version in MLflow's registry, which needs neither run nor hub."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mat_ds.command import Parser, attempt
from mat_ds.display import show
from mat_ds.engine.distributed import World
from mat_ds.errors import ExitCode
from mat_ds.masking import masked
from mat_ds.tracking.destination import is_remote

EXAMPLE = "mat-ds register runs/cola acceptability"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line and returns its exit code."""
    return attempt(lambda: _run(arguments), World(), "")


def register_finished(run: Path, name: str, uri: str | None) -> None:
    """Registers the model of a run that has just ended well; what goes wrong is told, and is no reason to call it failed.

    Args:
        run: its directory.
        name: of the registered model.
        uri: its `tracking.uri`, which training has checked.
    """
    from mat_ds.tracking.registry import register

    given = uri if is_remote(uri) else None
    try:
        show(f"registered models:/{name}/{register(run, name, given)[0]}", sys.stderr)
    except Exception as error:
        again = shlex.join(["mat-ds", "register", str(run), name, *(["--uri", given] if given else [])])
        show(f"*** WARNING: not registered: {masked(str(error))}\n`{again}` does it", sys.stderr)


def _run(arguments: Sequence[str]) -> None:
    parser = Parser(prog="mat-ds register", description=__doc__, epilog=f"example: {EXAMPLE}", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's directory")
    parser.add_argument("name", metavar="NAME", help="of the registered model; it is made if there is none")
    parser.add_argument("--uri", help="MLflow's address; default: the run's tracking.uri, else mlflow.db beside the run; a "
                        "server's where credentials are set only if MLFLOW_TRACKING_URI names it")  # fmt: skip
    parsed = parser.parse_args(arguments)
    from mat_ds.tracking.registry import is_default, register

    version, uri = register(parsed.run, parsed.name, parsed.uri)
    there = [] if is_default(uri) else ["--uri", uri]
    promote = shlex.join(["mat-ds", "promote", parsed.name, str(version), "--alias", "champion", *there])
    show(f"models:/{parsed.name}/{version}\npromote it with\n    {promote}")
