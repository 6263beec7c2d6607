"""How a folder gets onto a disk whole or not at all, and comes back if the process that replaced it died."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from mat_ds.storage.disk import beside, nobody_else, remove, sync_folder, with_room
from mat_ds.storage.reading import open_regular

# Seconds without a change after which what is half written is taken for left behind.
LEFT_BEHIND = 3600.0
# How often others may be faster.
ATTEMPTS = 100
# What a disk says where a folder of that name is there.
TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def write_folder(path: Path, fill: Callable[[Path], None], still_ours: Callable[[], None] = nobody_else) -> None:
    """Replaces a folder by what `fill` writes into an empty one; the old one is there until the new one is complete.

    Args:
        path, fill: the folder, and what writes its files.
        still_ours: raises, before anything is written and right before each rename, if the place is no longer this
            process's to write.

    Raises:
        SaveError: if the disk refuses; the old one is what it was.
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
            still_ours()  # who has taken the place may have removed what was being written
            raise
        finally:
            remove(aside)
        clear(path)

    with_room(path, write)


def finish_folder(folder: Path) -> None:
    """Brings a new folder to the disk, its files with the mode that the umask gives: libraries have modes of their own."""
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for where, folders, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError), open_regular(Path(where, file)) as stream:
                with suppress(PermissionError):  # a link to another's file
                    os.fchmod(stream.fileno(), mode)
                os.fsync(stream.fileno())
        for name in (".", *folders):
            sync_folder(Path(where, name))


def copy_files(source: Path, target: Path, copy: Callable[[Path, Path], object] = shutil.copyfile) -> None:
    """Copies the regular files below a folder, and nothing that leads out of it or waits for somebody."""
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
    """Gives a finished folder its name; what has that name keeps it until then, and gets it back if the new one cannot.

    Args:
        aside, path: the folder, and its name to be, in the same parent or at least on the same disk.
        still_ours: raises, right before each rename, if the place is no longer this process's to write.
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
        # Somebody who found nothing there has put the old one back, or one of his own.
        remove(old)
    sync_folder(path.parent)
    remove(old)


def restore(path: Path) -> None:
    """Puts back what was set aside by a process that died before the new folder had its name."""
    if os.path.lexists(path):
        return
    for old in sorted(_hidden(path, "old"), key=_changed, reverse=True):
        try:
            os.rename(old, path)
        except OSError as error:  # another process was faster: it took this one, or put its own in place
            if error.errno not in (errno.ENOENT, *TAKEN):
                raise
        return


def clear(path: Path, alone: bool = False) -> None:
    """Removes what processes that died left beside a folder or a file.

    Args:
        path: the folder or file.
        alone: whether no other process can be writing it; else what has changed in the last hour stays.
    """
    if os.path.lexists(path):
        for old in _hidden(path, "old"):
            remove(old)
    now = _changed(path)
    for part in _hidden(path, "part"):
        with suppress(FileNotFoundError):  # its writer has finished it meanwhile
            if alone or now - max(map(_changed, (part, *part.rglob("*")))) > LEFT_BEHIND:
                remove(part)


def _hidden(path: Path, kind: str) -> list[Path]:
    """What `beside` named, and, of what was set aside, the name that earlier versions gave."""
    named = re.compile(rf"\.{re.escape(path.name)}\.([0-9a-f]{{8}}\.)?{kind}")
    return [Path(entry.path) for entry in _entries(path.parent) if named.fullmatch(entry.name)]


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What is in a folder, but for links."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        yield from [entry for entry in found if not entry.is_symlink()]


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
