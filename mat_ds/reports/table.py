"""A table as a page shows it and as a CSV file holds it."""

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
    """A column of a table on the page; one or more columns of its CSV file.

    Attributes:
        title: its heading.
        keys: what of a row it shows, numbers joined by a slash.
        digits: decimals of its numbers; None of a column of words.
        spread: the key of the deviation shown behind the number.
    """

    title: str
    keys: tuple[str, ...]
    digits: int | None = 1
    spread: str | None = None

    def show(self, row: Row) -> str:
        """The text of a cell."""
        values = [row.get(key) for key in self.keys]
        while len(values) > 1 and values[-1] is None:
            values.pop()
        text = "/".join(self._text(value) for value in values)
        deviation = row.get(self.spread) if self.spread else None
        return text if deviation is None else f"{text} ± {self._text(deviation)}"

    def _text(self, value: Any) -> str:
        if value is None:
            return NONE
        return f"{value:,.{self.digits}f}" if isinstance(value, float) and self.digits is not None else str(value)

    @property
    def numeric(self) -> bool:
        """Whether it is set flush right."""
        return self.digits is not None


def text(title: str, key: str) -> Column:
    """A column of words."""
    return Column(title, (key,), digits=None)


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        name: of its CSV file.
        title, note: what stands above and below it.
        columns: in their order.
        rows: values by key: text, numbers, None where there is none. `source` marks a row as published or measured.
        shown: whether it is on the page; one that is not is a CSV file only.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: list[Row]
    note: str = ""
    shown: bool = True

    @property
    def compared(self) -> bool:
        """Whether published rows are among them."""
        return any(str(row.get("source")).startswith("published") for row in self.rows)

    def csv(self) -> str:
        """All values of the table, unrounded, a column for each key."""
        keys = [key for column in self.columns for key in (*column.keys, *([column.spread] if column.spread else []))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows([_inert(row.get(key)) for key in keys] for row in self.rows)
        return out.getvalue()


def _inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a quote before it: names of runs come from anywhere."""
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else printable(value)
