"""Rows of csv and tsv files, whatever is wrong with some of them, in time and memory that grow no faster than the file."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.lines import bounded_lines, open_text
from mat_ds.tasks.rows import (
    CORRUPT,
    ENCODING,
    LONG,
    LONGEST_LINE,
    LONGEST_TEXT,
    BadRow,
    LocatedRow,
    excerpt,
    is_utf8,
    repeated,
)


def read_delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Iterator[LocatedRow]]:
    """How files with this delimiter are read: the first record names the columns."""

    def read(path: Path) -> Iterator[LocatedRow]:
        with open_text(path, newline="") as file:
            records = _records(bounded_lines(file), delimiter, quoting)
            number, header = next(records, (1, []))
            if isinstance(header, BadRow):
                raise UserError(Problem(f"{path}:{number}", header.value, f"the header {header.reason}", "mend the file"))
            if twice := repeated(header):
                raise UserError(Problem(f"{path}:{number}", *twice))
            for number, record in records:
                if isinstance(record, list) and len(record) != len(header):
                    reason = f"has {len(record)} columns, the header {len(header)}"
                    record = BadRow(CORRUPT, excerpt(delimiter.join(record)), reason)
                yield f"{path}:{number}", record if isinstance(record, BadRow) else dict(zip(header, record, strict=True))

    return read


def _records(lines: Iterator[str], delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str] | BadRow]]:
    """The records of a delimited file, each with the number of the line it begins in; empty lines are none.

    A quote that is never closed, or closed in the middle of a field, would swallow the lines behind it. They are read again,
    once: where reading broke off, every quote that a line before left open would have led to the same place.
    """
    number, broken, taken, again = 1, 0, list[str](), deque[str]()

    def feed() -> Iterator[str]:
        length = 0
        while (line := again.popleft() if again else next(lines, None)) is not None:
            length = length + len(line) if taken else len(line)
            taken.append(line)
            if len(taken) > 1 and number + len(taken) - 1 <= broken:
                raise csv.Error("a quote is not closed")
            if length >= LONGEST_LINE:
                raise csv.Error(f"it has {LONGEST_LINE:,} characters or more")
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        taken.clear()
        record: list[str] | BadRow | None
        try:
            record = next(reader, None)
        except csv.Error as error:
            broken = max(broken, number + len(taken) - 1)
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
            too_long = len(taken[0]) > LONGEST_TEXT
            reason = f"has more than {LONGEST_TEXT:,} characters" if too_long else f"is no record: {error}"
            record = BadRow(LONG if too_long else CORRUPT, excerpt(taken[0]), reason)
        if record is None:
            return
        if not all(is_utf8(line) for line in taken):
            record = BadRow(ENCODING, excerpt("".join(taken)), "is not UTF-8 text")
        if record:
            yield number, record
        number += len(taken)
