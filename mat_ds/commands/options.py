"""`mat-ds options`: prints the options of a run, their defaults and what they mean."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mat_ds.errors import ExitCode, Problem, UserError, nearest
from mat_ds.ranks.exits import attempt
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser

if TYPE_CHECKING:
    from mat_ds.runs.table import OptionRow

WIDTH = 80


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints all sections, or one section, method or option; returns the exit code."""
    return attempt(lambda: _show_options(arguments))


def _show_options(arguments: Sequence[str]) -> None:
    parser = Parser("options", __doc__, "mat-ds options optimizer")
    parser.add_argument(
        "section",
        nargs="?",
        metavar="SECTION",
        help="a section (data), a method (mat), or an option (train.epochs, or epochs alone); default: all sections",
    )
    wanted = parser.parse_args(arguments).section
    show("\n\n".join(options_text(wanted)))


def options_text(wanted: str | None) -> Iterator[str]:
    """Yields the parts of what is printed.

    Args:
        wanted: a section, method or option; None: all sections, and the names of the methods.

    Raises:
        UserError: if there is no such section, method or option.
    """
    from mat_ds.runs.table import OptionGroup, option_groups

    def text(group: OptionGroup) -> str:
        head = f"method.name={group.key}: {group.title}" if group.method else group.title
        lines = [_wrapped(head if group.rows else f"{head} (no options)", 0), *map(_row_text, group.rows)]
        return "\n".join(lines)

    groups = list(option_groups())
    methods = [group for group in groups if group.method]
    if wanted is None:
        yield from (text(group) for group in groups if not group.method)
        names = [_wrapped(f"{group.key}: {group.title}", 2) for group in methods]
        yield "\n".join(["Methods, of which method.name takes one (mat-ds options NAME)", *names])
        return
    name = wanted.strip().removesuffix(".").replace("-", "_")
    bare = name.removeprefix("method.name=").removeprefix("method.")
    found = [group for group in groups if not group.method and group.key and f"{group.key}.".startswith(f"{name}.")]
    found = found or [group for group in methods if group.key == bare or name == "method"]
    rows = [(group, row) for group in groups for row in group.rows if name in (row.key, row.key.rpartition(".")[2])]
    if not found and not rows:
        known = {group.key for group in groups if group.key} | {row.key for group in groups for row in group.rows}
        close = nearest(name, known)
        fix = "run `mat-ds options`, which lists all" if close.startswith("known") else close
        raise UserError(Problem("SECTION", wanted, "is no section, method or option", fix))
    if found:
        yield from map(text, found)
        return
    owners: dict[str, list[str]] = {}
    for group, row in rows:
        owners.setdefault(_row_text(row), []).extend([group.key] if group.method else [])
    for meaning, names in owners.items():
        yield "\n".join([meaning, *([_wrapped(f"of {', '.join(names)}", 6)] if names else [])])


def _row_text(row: OptionRow) -> str:
    return f"{_wrapped(f'{row.key}  {row.default}', 2)}\n{_wrapped(row.meaning, 6)}"


def _wrapped(text: str, indent: int) -> str:
    """Text in lines that fit the terminal, the first indented as told, the others by six."""
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * 6, break_on_hyphens=False)
