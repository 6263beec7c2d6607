"""Reads files with one row per line, or with all rows in one JSON array."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from mat_ds.config.text_files import is_unicode
from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import TwiceError, once
from mat_ds.tasks.example import CORRUPT, ENCODING, LONG, BadRow, excerpt
from mat_ds.tasks.rows import LONGEST_LINE, LocatedRow
from mat_ds.tasks.sources import open_data
from mat_ds.tasks.squad import BEGINNING, published_rows

STDIN = Path("-")
# Column name for files that contain only texts.
TEXT = "text"
# A JSON array is read into memory as a whole.
LARGEST_ARRAY = 256 * 2**20
# How a file begins that holds the rows of several tasks, each under a key.
COLLECTION = re.compile(r'\{\s*"[^"]*"\s*:\s*\[\s*(\]|\{)')


def open_text(path: Path, newline: str) -> TextIO:
    """Opens a text file; drops a byte order mark, and decodes invalid bytes to surrogates so that the other lines remain
    readable."""
    piped = path == STDIN
    binary = os.fdopen(os.dup(0), "rb") if piped else open_data(path)
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def bounded_lines(file: TextIO) -> Iterator[str]:
    """Yields the lines of a file, each cut at `LONGEST_LINE` characters, so that a file without line ends does not fill the
    memory."""
    while line := file.readline(LONGEST_LINE):
        yield line
        while len(line) == LONGEST_LINE and line[-1] not in "\r\n":
            line = file.readline(LONGEST_LINE)


def too_long(line: str) -> BadRow:
    return BadRow(LONG, excerpt(line), f"is a line of {LONGEST_LINE:,} characters or more")


def read_text(path: Path) -> Iterator[LocatedRow]:
    """Yields each line of a file as a text."""
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            good = is_unicode(line)
            row = too_long(line) if len(line) >= LONGEST_LINE else {TEXT: text}
            yield f"{path}:{number}", row if good else BadRow(ENCODING, excerpt(line), "is not UTF-8 text")


def read_jsonl(path: Path) -> Iterator[LocatedRow]:
    """Yields the objects of a JSON lines file. Only \\n ends a line: texts may contain U+2028 and others that str.splitlines
    would split at."""
    with open_text(path, newline="\n") as file:
        for number, line in enumerate(bounded_lines(file), start=1):
            if len(line) >= LONGEST_LINE:
                yield f"{path}:{number}", too_long(line)
            elif line.strip():
                yield f"{path}:{number}", _from_line(line)


def read_json_rows(path: Path, member: str | None = None) -> Iterator[LocatedRow]:
    """Yields the objects of a JSON file that is either JSON lines or one array, or the questions of one published as SQuAD.

    Args:
        path: the file.
        member: the key of the rows where the file holds those of several tasks; None: it does not.
    """
    with open_text(path, newline="") as file:
        start = file.read(4096).lstrip()
    squad, collection = BEGINNING.match(start), member is not None and COLLECTION.match(start)
    if not start.startswith("[") and not squad and not collection:
        yield from read_jsonl(path)
        return
    if path.stat().st_size > LARGEST_ARRAY:
        raise UserError(Problem(str(path), None, f"is one JSON value of more than {LARGEST_ARRAY:,} bytes",
                                "write one object in a line (.jsonl), which is read row by row"))  # fmt: skip
    with open_text(path, newline="") as file:
        found = _parse_row(file.read(LARGEST_ARRAY))
    if isinstance(found, BadRow):
        raise UserError(Problem(str(path), found.value, found.reason, "mend the file"))
    if collection:
        yield from _member_rows(path, found, str(member))
    elif squad:
        yield from ((f"{path} {place}", _row(value, value)) for place, value in published_rows(found))
    else:
        yield from ((f"{path} row {i}", _row(value, value)) for i, value in enumerate(found))


def _member_rows(path: Path, tree: Any, member: str) -> Iterator[LocatedRow]:
    """Yields the rows under a key of a file of several tasks; raises `UserError` if it has none there."""
    rows = tree.get(member)
    if not isinstance(rows, list):
        reason = f"has no list of rows under {member!r}"
        raise UserError(Problem(str(path), ", ".join(map(str, tree)), reason, "take the file as published"))
    yield from ((f"{path} {member}[{i}]", _row(value, value)) for i, value in enumerate(rows))


def _parse_row(text: str) -> Any:
    """The parsed JSON, or a `BadRow`."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except TwiceError as error:
        return BadRow(CORRUPT, excerpt(text), str(error))
    except (ValueError, RecursionError) as error:
        place = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) and error.lineno > 1 else ""
        return BadRow(CORRUPT, excerpt(text), f"is not JSON: {getattr(error, 'msg', error)}{place}")


def _from_line(line: str) -> dict[str, Any] | BadRow:
    if not is_unicode(line):
        return BadRow(ENCODING, excerpt(line), "is not UTF-8 text")
    return _row(_parse_row(line), line)


def _row(found: Any, shown: object) -> dict[str, Any] | BadRow:
    return found if isinstance(found, dict | BadRow) else BadRow(CORRUPT, excerpt(shown), "is not a JSON object")
