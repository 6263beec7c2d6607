"""A path as people write it: `~` and `$VARIABLE` mean the same in a recipe as in a shell."""

from __future__ import annotations

import errno
import os
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# Bytes of a path and of a name in it, on Linux.
MOST, MOST_OF_A_NAME = 4000, 255
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expanded(path: str) -> str:
    """A path without `~`, `$VARIABLE` and `${VARIABLE}`.

    Raises:
        ValueError: if it is empty, names a variable or a user that there is not, or ends in a circle of links.
    """
    if not path.strip():
        raise ValueError("is empty: write null where none is meant")
    if "\0" in path:
        raise ValueError("holds a NUL, which no path can")

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not (found := os.environ.get(name)):
            raise ValueError(f"names the variable {name}, which is not set: set it, or write the path out")
        return found

    head, slash, rest = path.partition("/")
    if head.startswith("~") and (home := os.path.expanduser(head)) != head:
        head, rest = home, VARIABLE.sub(value, slash + rest)
    elif head.startswith("~"):
        raise ValueError(f"names the home of a user that there is not: write ./{path} if that is the folder's name")
    else:
        head, rest = "", VARIABLE.sub(value, path)
    if VARIABLE.search(head + rest):  # the run would read something else from the options it writes down
        raise ValueError(f"stands for {head + rest}, which names a variable again: write the path out, without a $")
    if len(os.fsencode(head + rest)) > MOST or any(len(os.fsencode(part)) > MOST_OF_A_NAME for part in rest.split("/")):
        raise ValueError("is longer than a disk takes: take a shorter path")
    if _goes_round(head + rest):
        raise ValueError("leads into links that lead to each other: delete one of them, or name another path")
    return head + rest


def _goes_round(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def expanded_address(uri: str) -> str:
    """The address of an SQLite file with its path expanded; any other as it is."""
    prefix = "sqlite:///"
    return prefix + expanded(uri.removeprefix(prefix)) if uri.startswith(prefix) and uri != prefix else uri


def argument(text: str) -> str:
    """`expanded` for a command line's parser, which tells of no other error than its own."""
    try:
        return expanded(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} {error}") from None


def path_argument(text: str) -> Path:
    """The same as a path."""
    return Path(argument(text))


PathText = Annotated[str, AfterValidator(expanded)]
