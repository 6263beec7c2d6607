"""Paths as users write them: expands `~` and `$VARIABLE` in options as a shell does."""

from __future__ import annotations

import errno
import os
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

# Maximum bytes of a path and of one name in it, on Linux.
MOST, MOST_OF_A_NAME = 4000, 255
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expanded(path: str) -> str:
    """Expands `~`, `$VARIABLE` and `${VARIABLE}` in a path.

    Raises:
        ValueError: if the path is empty or too long, names an unknown variable or user, or runs into a circle of links.
    """
    if not path.strip():
        raise ValueError("is empty: write null for no path")
    if "\0" in path:
        raise ValueError("contains a NUL character")

    home = os.path.expanduser(path)
    if path.startswith("~") and home == path:
        raise ValueError(f"names the home folder of an unknown user: write ./{path} if that is the folder's name")
    if unset := [name for pair in VARIABLE.findall(path) for name in pair if name and not os.environ.get(name)]:
        raise ValueError(f"names the variable {unset[0]}, which is not set: set it, or write the path out")
    full = os.path.expandvars(home)
    if VARIABLE.search(full):  # config.yaml stores the expanded path; expanding that once more must not change it
        raise ValueError(f"stands for {full}, which contains a variable again: write the path without a $")
    if len(os.fsencode(full)) > MOST or any(len(os.fsencode(part)) > MOST_OF_A_NAME for part in full.split("/")):
        raise ValueError("is too long for a file system: use a shorter path")
    if _goes_round(full):
        raise ValueError("runs into a circle of symbolic links: delete one of them, or use another path")
    return full


def _goes_round(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def expanded_address(uri: str) -> str:
    """Expands the path in an `sqlite:///` URL; returns any other URL unchanged."""
    prefix = "sqlite:///"
    return prefix + expanded(uri.removeprefix(prefix)) if uri.startswith(prefix) and uri != prefix else uri


def argument(text: str) -> str:
    """`expanded` as the type of an argparse argument: raises `ArgumentTypeError`."""
    try:
        return expanded(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} {error}") from None


def path_argument(text: str) -> Path:
    """`argument`, returned as a `Path`."""
    return Path(argument(text))


PathText = Annotated[str, AfterValidator(expanded)]
