"""Reads csv and tsv files; bad rows are reported one by one, and time and memory stay linear in the file size."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from mat_ds.config.text_files import is_unicode
from mat_ds.errors import Problem, UserError
from mat_ds.tasks.example import CORRUPT, ENCODING, LONG, LONGEST_TEXT, BadRow, excerpt
from mat_ds.tasks.lines import bounded_lines, open_text
from mat_ds.tasks.rows import LONGEST_LINE, LocatedRow, repeated


def read_delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Iterator[LocatedRow]]:
    """A reader for files with this delimiter, whose first record is the header."""

    def read(path: Path) -> Iterator[LocatedRow]:
        with open_text(path, newline="") as file:
            records = _parse_records(bounded_lines(file), delimiter, quoting)
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


def _parse_records(lines: Iterator[str], delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yields each record with the number of its first line; skips empty lines.

    An unclosed quote would swallow the lines after it. So after such a bad record the lines that it swallowed are read
    again, but only once: reading stops at the line where the first attempt failed, since every later open quote would fail
    there too.
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
            reason = f"has more than {LONGEST_TEXT:,} characters" if too_long else f"cannot be parsed: {error}"
            record = BadRow(LONG if too_long else CORRUPT, excerpt(taken[0]), reason)
        if record is None:
            return
        if not all(is_unicode(line) for line in taken):
            record = BadRow(ENCODING, excerpt("".join(taken)), "is not UTF-8 text")
        if record:
            yield number, record
        number += len(taken)
