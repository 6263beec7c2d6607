"""Writes folders atomically, and restores the old one if the process that was replacing it died."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mat_ds.storage.disk import beside, nobody_else, remove, sync_folder, with_room
from mat_ds.storage.reading import open_regular

# Seconds without a change after which a half-written folder counts as abandoned.
LEFT_BEHIND = 3600.0
# Attempts to rename while other processes keep taking the name.
ATTEMPTS = 100
# Error numbers of a rename onto an existing folder.
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def write_folder(path: Path, fill: Callable[[Path], None], still_ours: Callable[[], None] = nobody_else) -> None:
    """Replaces a folder by what `fill` writes into an empty one; the old folder stays until the new one is complete.

    Args:
        path, fill: the folder, and the function that writes its files.
        still_ours: called before anything is written and before each rename; raises if this process may no longer write
            there.

    Raises:
        SaveError: if the disk refuses; the old folder is unchanged.
    """
    aside = beside(path, "part")

    def write() -> None:
        still_ours()
        restore(path)
        aside.mkdir(parents=True)
        try:
            fill(aside)
            finish_folder(aside)
            put_in_place(aside, path, still_ours)
        except Exception:
            still_ours()  # the job that took over may have removed our files: report that instead
            raise
        finally:
            remove(aside)
        clear(path)

    with_room(path, write)


def finish_folder(folder: Path) -> None:
    """Flushes a new folder to disk and gives its files the umask's mode, since libraries set modes of their own."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for where, folders, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError), open_regular(Path(where, file)) as stream:
                with suppress(PermissionError):  # a link to another user's file
                    os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
        for name in (".", *folders):
            sync_folder(Path(where, name))


def copy_files(source: Path, target: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Copies the regular files below a folder; skips links and pipes."""
    for where, folders, files in os.walk(source):
        inner = target / Path(where).relative_to(source)
        for folder in folders:
            if not Path(where, folder).is_symlink():
                (inner / folder).mkdir(parents=True, exist_ok=True)
        inner.mkdir(parents=True, exist_ok=True)
        for file in files:
            if stat.S_ISREG(Path(where, file).lstat().st_mode):
                copy(Path(where, file), inner / file)


def put_in_place(aside: Path, path: Path, still_ours: Callable[[], None] = nobody_else) -> None:
    """Renames a finished folder to `path`; puts the old one back if that fails.

    Args:
        aside, path: the folder, and its final name in the same parent or at least on the same disk.
        still_ours: called before each rename; raises if this process may no longer write there.
    """
    for attempt in range(ATTEMPTS):
        old = beside(path, "old")
        still_ours()
        with suppress(FileNotFoundError):
            os.rename(path, old)
        try:
            still_ours()
            os.rename(aside, path)
            break
        except BaseException as error:
            taken = isinstance(error, OSError) and error.errno in TAKEN
            if not taken or attempt == ATTEMPTS - 1:
                with suppress(OSError):
                    if not os.path.lexists(path):
                        os.rename(old, path)
                raise
        # Another process restored the old folder, or wrote its own, in the meantime: try again.
        remove(old)
    sync_folder(path.parent)
    remove(old)


def restore(path: Path) -> None:
    """Puts back the old folder if the process that was replacing it died."""
    if os.path.lexists(path):
        return
    for old in sorted(_hidden(path, "old"), key=_changed, reverse=True):
        try:
            os.rename(old, path)
        except OSError as error:  # another process was faster
            if error.errno not in (errno.ENOENT, *TAKEN):
                raise
        return


def clear(path: Path, alone: bool = False) -> None:
    """Removes hidden files that crashed processes left beside a folder or file.

    Args:
        path: the folder or file.
        alone: whether no other process can be writing it; otherwise keeps what changed during the last hour.
    """
    if os.path.lexists(path):
        for old in _hidden(path, "old"):
            remove(old)
    now = _changed(path)
    for part in _hidden(path, "part"):
        with suppress(FileNotFoundError):  # its writer has just finished
            if alone or now - max(map(_changed, (part, *part.rglob("*")))) > LEFT_BEHIND:
                remove(part)


def _hidden(path: Path, kind: str) -> list[Path]:
    """The hidden names that `beside` made for `path`; also the `old` names of earlier versions."""
    named = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}}\.)?{kind}")
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path.parent) as found:
        return [Path(entry.path) for entry in found if named.fullmatch(entry.name) and not entry.is_symlink()]
    return []


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
