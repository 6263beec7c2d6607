"""A table, as HTML page and CSV file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from mat_ds.errors import printable

Row = dict[str, Any]
NONE = "–"


@dataclass(frozen=True)
class Column:
    """A column on the page; one or more columns in the CSV file.

    Attributes:
        title: its heading.
        keys: the row values that it shows, joined by slashes.
        digits: decimals of numbers; None for text.
        spread: key of a mean over seeds; `<key> sd` is shown after it, or `<key> of both` in its place if there are two.
        shown: key of the text that the page shows instead of them; empty: themselves.
    """

    title: str
    keys: tuple[str, ...]
    digits: int | None = 1
    spread: str | None = None
    shown: str = ""

    def show(self, row: Row) -> str:
        """The text of a cell."""
        if self.shown:
            return str(row.get(self.shown, NONE))
        values = [row.get(key) for key in self.keys]
        while len(values) > 1 and values[-1] is None:
            values.pop()
        text = "/".join(self._text(value) for value in values)
        if both := row.get(f"{self.spread} of both"):
            return ", ".join(map(self._text, both))
        deviation = row.get(f"{self.spread} sd")
        return text if deviation is None else f"{text} ± {self._text(deviation)}"

    def _text(self, value: Any) -> str:
        if value is None:
            return NONE
        return f"{value:,.{self.digits}f}" if isinstance(value, float) and self.digits is not None else str(value)

    @property
    def numeric(self) -> bool:
        """Whether it is right-aligned."""
        return self.digits is not None


def text(title: str, key: str, shown: str = "") -> Column:
    """A column of text."""
    return Column(title, (key,), digits=None, shown=shown)


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        name: of its CSV file.
        title, note: above and below it.
        columns: in order.
        rows: values by key: text, numbers or None. `source` marks a row as published or measured.
        shown: whether it is on the page; otherwise it is only a CSV file.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    note: str = ""
    shown: bool = True

    @property
    def compared(self) -> bool:
        """Whether it contains published rows."""
        return any(str(row.get("source")).startswith("published") for row in self.rows)

    def csv(self) -> str:
        """All values as CSV, unrounded, one column per key."""
        keys = [key for column in self.columns for key in (*column.keys, *([f"{column.spread} sd"] if column.spread else []))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([_csv_cell(row.get(key)) for key in keys] for row in self.rows)
        return out.getvalue()


def _csv_cell(value: Any) -> Any:
    """Prefixes text that a spreadsheet would run as a formula with a quote; names of runs are untrusted."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else printable(value)
