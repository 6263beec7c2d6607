"""`mat-ds runs`: lists the runs of a folder with their scores, times and how they stand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mat_ds.errors import ExitCode
from mat_ds.ranks.exits import attempt
from mat_ds.reports.overview import as_dicts, as_rows, run_lines
from mat_ds.terminal.display import show
from mat_ds.terminal.layout import table_text
from mat_ds.terminal.parser import Parser


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints a table, oldest run first; returns the exit code."""
    return attempt(lambda: _list_runs(arguments))


def _list_runs(arguments: Sequence[str]) -> None:
    parser = Parser("runs", __doc__, "mat-ds runs runs")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="of runs, at any depth, or one run (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parsed = parser.parse_args(arguments)
    lines = run_lines(parsed.folder)
    show(json.dumps(as_dicts(lines)) if parsed.json else table_text(as_rows(lines)))
