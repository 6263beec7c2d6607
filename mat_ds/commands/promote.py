"""`mat-ds promote`: points an alias such as champion to a version, unless the alias's current version scores higher.

Scores are only compared on the same dev set (by SHA-256); otherwise the alias is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.errors import ExitCode
from mat_ds.ranks.exits import attempt
from mat_ds.registry.locate import URI_MEANING
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing

EXAMPLE = "mat-ds promote acceptability 3 --alias champion"


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command and returns its exit code."""
    return attempt(lambda: _promote(arguments))


def _promote(arguments: Sequence[str]) -> None:
    parser = Parser("promote", __doc__, EXAMPLE)
    parser.add_argument("name", metavar="NAME", help="name of the registered model")
    parser.add_argument("version", metavar="VERSION", type=int, help="the version to promote")
    parser.add_argument("--alias", required=True, help="the alias that will point to the version")
    parser.add_argument("--force", action="store_true", help="promote regardless of scores and dev sets")
    parser.add_argument("--uri", help=URI_MEANING)
    parsed = parser.parse_args(arguments)
    with importing(what="MLflow"):
        from mat_ds.registry.versions import promote

    show(promote(parsed.name, parsed.version, parsed.alias, parsed.force, parsed.uri))
