"""Lays out text for the columns of a terminal: long lines, and tables."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

# Columns between two cells of a table.
GAP = 2
# Of numbers in this range four decimals are shown, in columns of a table whose numbers are all in it; else four digits.
PLAIN = (1e-3, 1e3)


def columns() -> int:
    """Columns of the terminal that standard output goes to, or as the variable COLUMNS says; 0 for a file, which has no end."""
    return shutil.get_terminal_size((0, 0)).columns


def wrapped(text: str, indent: int) -> str:
    """Lines broken between words to fit the terminal; all parts of a line but its first are indented."""
    if not (room := columns()):
        return text
    room, behind = max(room, 2 * indent), " " * indent

    def broken(line: str) -> str:
        return textwrap.fill(line, room, subsequent_indent=behind, break_long_words=False, break_on_hyphens=False)

    return "\n".join(map(broken, text.split("\n")))


def table_text(rows: Sequence[Sequence[Any]]) -> str:
    """A table as text, numbers below each other. None is shown as a dash.

    If it is wider than the terminal, the columns that do not fit follow below, each part with the first columns that tell rows
    apart, or with the first alone where these leave no room for another.

    Args:
        rows: the first holds the headings.
    """
    shown = [list(column) for column in zip(*(_column(column) for column in zip(*rows, strict=True)), strict=True)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    room, lead = columns(), _leading(shown)
    if room and sum(widths[:lead]) + GAP * lead + max(widths[lead:], default=0) > room:
        lead = 1
    parts = [list(range(lead))]
    for i in range(lead, len(widths)):
        if room and len(parts[-1]) > lead and sum(widths[j] + GAP for j in parts[-1]) + widths[i] > room:
            parts.append(list(range(lead)))
        parts[-1].append(i)
    gap = " " * GAP
    return "\n\n".join("\n".join(gap.join(row[i] for i in part).rstrip() for row in shown) for part in parts)


def _leading(rows: Sequence[Sequence[str]]) -> int:
    """How many of the first columns tell all rows apart; 1 if none do."""
    counts = range(1, len(rows[0]))
    return next((count for count in counts if len({tuple(row[:count]) for row in rows}) == len(rows)), 1)


def _column(values: Sequence[Any]) -> list[str]:
    """The cells of a column, equally wide; numbers are aligned on the right."""
    heading, *body = values
    numbers = [value for value in body if isinstance(value, (int, float))]
    floats = [abs(value) for value in numbers if isinstance(value, float)]
    plain = all(value == 0 or PLAIN[0] <= value < PLAIN[1] for value in floats)
    cells = [str(heading), *(_cell(value, plain) for value in body)]
    width = max(map(len, cells))
    shown = [cell for cell in cells[1:] if cell not in ("", "-")]
    right = bool(shown) and all(cell.lstrip("-")[:1].isdecimal() for cell in shown)
    return [cell.rjust(width) if right else cell.ljust(width) for cell in cells]


def _cell(value: object, plain: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if plain else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
