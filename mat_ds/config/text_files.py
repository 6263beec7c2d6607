"""Reads small text files written by others: regular files of limited size, in UTF-8."""

from __future__ import annotations

import re
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import open_regular

SURROGATE = re.compile("[\ud800-\udfff]")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded in UTF-8. It cannot if it contains surrogates, which Python makes of undecodable bytes."""
    return SURROGATE.search(text) is None


def read_text_file(path: Path, key: str, most: int, fix: str) -> str:
    """Reads a text file; drops a byte order mark at its start.

    Args:
        key: what an error message calls the file.
        most: maximum number of bytes.
        fix: what an error message advises.

    Raises:
        UserError: if it is not a regular file, cannot be read, is too large, or is not UTF-8.
    """
    value = None if key == str(path) else str(path)
    try:
        with open_regular(path, links=True) as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: the path contains a NUL
        reason = "Is a directory" if path.is_dir() else getattr(error, "strerror", None) or error
        raise UserError(Problem(key, value, f"cannot be read: {reason}", fix)) from None
    if len(data) > most:
        raise UserError(Problem(key, value, f"has more than {most:,} bytes", fix))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(Problem(key, value, f"is not UTF-8 text: {error.reason} in line {line}", "save it as UTF-8")) from None
