"""`mat-ds env`: prints versions, devices and variables of this machine, without secrets, to paste into a bug report."""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.doctor.surroundings import surroundings
from mat_ds.errors import ExitCode
from mat_ds.ranks.exits import attempt
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints the description; returns the exit code."""
    return attempt(lambda: _show_surroundings(arguments))


def _show_surroundings(arguments: Sequence[str]) -> None:
    Parser("env", __doc__, "mat-ds env").parse_args(arguments)
    for title, lines in surroundings():
        show("\n".join([f"{title}:", *(f"  {line}" for line in lines)]))
