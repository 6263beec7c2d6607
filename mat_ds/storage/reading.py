"""Reading a small file that anybody may have left there: a stranger, a crash, a disk that fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from mat_ds.errors import Problem, UserError

# A small file that is larger was not written by this program.
MOST_BYTES = 1 << 26


class TwiceError(ValueError):
    """A key that an object holds twice, and both of its values."""

    def __str__(self) -> str:
        return f"it names {self.args[0]!r} twice"


class IrregularError(OSError):
    """What was to be read is no regular file."""


def open_regular(path: Path, links: bool = False) -> BinaryIO:
    """Opens a regular file for reading; a pipe is not waited for, a device not even opened.

    Args:
        path: the file.
        links: whether a link to one will do.

    Raises:
        IrregularError: if it is none.
        OSError: if it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    kind = stat.S_IFMT(os.stat(path, follow_symlinks=links).st_mode)
    if kind in (stat.S_IFREG, stat.S_IFLNK):  # a link that will not do is refused as it is opened
        handle = os.open(path, flags)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    raise IrregularError(errno.EINVAL, "it is no regular file", str(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The contents of a regular file of bounded size.

    Raises:
        OSError: if it is none, cannot be read, or is larger than `most` bytes.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def size_of(path: Path) -> int | None:
    """Bytes of a regular file, as the disk has it now; None where there is none."""
    try:
        with open_regular(path) as file:
            return os.fstat(file.fileno()).st_size
    except OSError:
        return None


def load_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is not JSON, in UTF-8, or names a key twice.
    """
    try:
        return json.loads(read_bytes(path).decode("utf-8"), object_pairs_hook=once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def once(pairs: list[tuple[str, Any]], same: bool = False) -> dict[str, Any]:
    """A JSON object whose keys stand there once, or with `same` say the same each time; raises `TwiceError` if one does not."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and not (same and found[key] == value):
            raise TwiceError(key, found[key], value)
        found[key] = value
    return found


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object in a file that must hold one.

    Args:
        path: the file.
        fix: what to do where it does not.

    Raises:
        UserError: if it is torn, or anything else than an object.
    """
    try:
        found = load_json(path)
    except (OSError, ValueError) as error:
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", fix)) from None
    if not isinstance(found, dict):
        raise UserError(Problem(str(path), None, f"holds no JSON object but a {type(found).__name__}", fix))
    return found


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, a block of it in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
