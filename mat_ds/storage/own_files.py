"""Tells a folder's own files from links that lead out of it: a folder from a stranger may link to private files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from mat_ds.errors import Problem


def why_foreign(folder: Path, path: Path) -> str | None:
    """Why `path` is not a file or folder inside `folder`; None if it is, or if it does not exist.

    Args:
        folder: may itself be a link.
        path: `folder` or a path below it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else None
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if not path.resolve().is_relative_to(folder.resolve()):
        return "is a link, or lies behind one, that leads out of the run directory"
    return None if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is neither a file nor a folder"


def own_files(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, str | None]]:
    """Every file at or below `names` in a folder, sorted, with the reason why it is not the folder's own, or None.

    Links to folders are never followed.
    """
    waiting = list(reversed(names))  # a stack, as recursion could exceed Python's limit
    while waiting:
        name = waiting.pop()
        path = folder / name
        reason = why_foreign(folder, path)
        if reason is None and not path.exists():
            continue
        if reason is None and path.is_dir():
            reason = "is a link to a folder" if path.is_symlink() else None
            if reason is None:
                try:
                    with os.scandir(path) as found:
                        waiting += sorted((f"{name}/{entry.name}" for entry in found), reverse=True)
                    continue
                except OSError as error:
                    reason = f"cannot be looked at ({error.strerror})"
        yield path, reason


def file_problems(folder: Path, names: Sequence[str]) -> Iterator[Problem]:
    """Yields a problem for each of `names` that exists but is not a regular file of the folder's own."""
    for name in names:
        reason = why_foreign(folder, folder / name) or ("is a folder" if (folder / name).is_dir() else None)
        if reason:
            yield Problem(str(folder / name), None, reason, "put the file itself there, or leave this run out")


def foreign_problems(folder: Path, names: Sequence[str]) -> Iterator[Problem]:
    """Yields a problem for each file that must not be read or uploaded because it is not the folder's own."""
    for path, reason in own_files(folder, names):
        if reason:
            yield Problem(str(path), None, reason, "put the file itself there, or leave this run out")
