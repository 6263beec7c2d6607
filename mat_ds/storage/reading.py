"""Reads small files that may be malicious, torn or unreadable."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from mat_ds.errors import Problem, UserError

# A larger file was not written by this program.
MOST_BYTES = 1 << 26


class TwiceError(ValueError):
    """An object has a key twice; arguments: the key and both values."""

    def __str__(self) -> str:
        key, first, second = self.args
        return f"has the key {key!r} twice, as {json.dumps(first)[:80]} and as {json.dumps(second)[:80]}"


class IrregularError(OSError):
    """The file is not a regular file."""


def open_regular(path: Path, links: bool = False) -> BinaryIO:
    """Opens a regular file for reading; never blocks on a pipe or opens a device.

    Args:
        path: the file.
        links: whether to follow a link.

    Raises:
        IrregularError: if it is not a regular file.
        OSError: if it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    kind = stat.S_IFMT(os.stat(path, follow_symlinks=links).st_mode)
    if kind in (stat.S_IFREG, stat.S_IFLNK):  # a link that must not be followed fails in os.open
        handle = os.open(path, flags)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    raise IrregularError(errno.EINVAL, "it is not a regular file", str(path))


def read_bytes(path: Path, most: int = MOST_BYTES, links: bool = False) -> bytes:
    """Reads a regular file of limited size.

    Raises:
        OSError: if it is not a regular file, cannot be read, or has more than `most` bytes.
    """
    with open_regular(path, links) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def size_of(path: Path) -> int | None:
    """Bytes of a regular file; None if there is none."""
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError:
        return None


def load_json(path: Path, links: bool = False) -> Any:
    """Parses a JSON file; `links`: whether to follow a link.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON in UTF-8, or an object has a key twice with different values.
    """
    try:
        return json.loads(read_bytes(path, links=links).decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object from its pairs; raises `TwiceError` for a repeated key, unless its values are equal."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and found[key] != value:
            raise TwiceError(key, found[key], value)
        found[key] = value
    return found


def read_json(path: Path, fix: str, key: str | None = None, links: bool = False) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        fix: what the error message advises.
        key: the option that named the file, if any, for the message.
        links: whether to follow a link.

    Raises:
        UserError: if it cannot be read, or holds anything but a JSON object.
    """
    name, value = (key, str(path)) if key else (str(path), None)
    try:
        found = load_json(path, links)
    except (OSError, ValueError) as error:
        raise UserError(Problem(name, value, f"cannot be read as JSON: {error}", fix)) from None
    if not isinstance(found, dict):
        raise UserError(Problem(name, value, f"holds a {type(found).__name__}, not a JSON object", fix))
    return found


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
