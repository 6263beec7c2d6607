"""Reading a small text file that somebody else wrote: a regular file, of a size that fits it, in UTF-8."""

from __future__ import annotations

from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.reading import open_regular


def is_unicode(text: str) -> bool:
    """Whether a text can be written in UTF-8: not, if it holds half of a surrogate pair, as undecodable bytes become."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_text_file(path: Path, key: str, most: int, fix: str) -> str:
    """The text of a file, without the mark that some editors put in front of it.

    Args:
        key: what to call it in a message.
        most: bytes that it may have.
        fix: what to do if it cannot be read.

    Raises:
        UserError: if it is none, or larger.
    """
    value = None if key == str(path) else str(path)
    try:
        with open_regular(path, links=True) as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # a path with a NUL
        reason = "Is a directory" if path.is_dir() else getattr(error, "strerror", None) or error
        raise UserError(Problem(key, value, f"cannot be read: {reason}", fix)) from None
    if len(data) > most:
        raise UserError(Problem(key, value, f"has more than {most:,} bytes", fix))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(Problem(key, value, f"is not UTF-8 text: {error.reason} in line {line}", "save it as UTF-8")) from None
