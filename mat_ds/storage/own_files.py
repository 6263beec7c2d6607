"""Which files of a folder are its own: one that comes from a stranger may hold links to what is nobody else's business."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from mat_ds.errors import Problem


def why_foreign(folder: Path, path: Path) -> str | None:
    """Why what lies at `path` is not a folder's own file or sub-folder; None if it is, or if there is nothing.

    Args:
        folder: itself it may be named by a link.
        path: at or below it.
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
    """Every file at or below `names` in a folder, in order, and why it is not the folder's own; None if it is.

    A link to a folder is not followed, wherever it leads.
    """
    waiting = list(reversed(names))  # a stack: a stranger's folders may be deeper than Python's own
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
    """What of a folder is there and is no file of its own, where there must be one."""
    for name in names:
        reason = why_foreign(folder, folder / name) or ("is a folder" if (folder / name).is_dir() else None)
        if reason:
            yield Problem(str(folder / name), None, reason, "put the file itself there, or leave this run out")


def foreign_problems(folder: Path, names: Sequence[str]) -> Iterator[Problem]:
    """What of a folder must not be read, or sent anywhere, because it is not its own."""
    for path, reason in own_files(folder, names):
        if reason:
            yield Problem(str(path), None, reason, "put the file itself there, or leave this run out")
