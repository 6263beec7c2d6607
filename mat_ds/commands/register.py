"""`mat-ds register`: adds the model of a finished run to MLflow's registry, as a version that needs neither run nor hub."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode
from mat_ds.ranks.exits import attempt
from mat_ds.runs.plugins import load_plugins
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing

EXAMPLE = "mat-ds register runs/cola acceptability"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _register(arguments))


def _register(arguments: Sequence[str]) -> None:
    parser = Parser("register", __doc__, EXAMPLE)
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's directory")
    parser.add_argument("name", metavar="NAME", help="name of the registered model; created if it does not exist")
    parser.add_argument(
        "--uri",
        help="MLflow's address, also of the registry; default: the run's tracking.uri, else MLFLOW_TRACKING_URI, else "
        "mlflow.db beside the run, and MLFLOW_REGISTRY_URI for the registry; a server that only the run names is sent no "
        "credentials",
    )
    add_plugin_argument(parser)
    parsed = parser.parse_args(arguments)
    load_plugins(parsed.plugin)
    with importing(what="MLflow"):
        from mat_ds.registry.connection import is_default
        from mat_ds.registry.versions import register

    version, uri = register(parsed.run, parsed.name, parsed.uri, parsed.uri)
    there = [] if is_default(uri) else ["--uri", uri]
    promote = shlex.join(["mat-ds", "promote", parsed.name, str(version), "--alias", "champion", *there])
    show(f"models:/{parsed.name}/{version}\npromote it with\n    {promote}")
