"""How a file gets onto a disk whole or not at all.

What is being written has a name that nobody can guess or plant a link under, and takes its own by one rename. A process that
is killed leaves at most such a hidden name behind: `.<name>.<8 hex digits>.part` is half done, `.old` is what stood there
before, and comes back if nothing has taken its place (`mat_ds.storage.folders.restore`).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TextIO

from mat_ds.errors import SaveError

# What a disk refuses by, whoever asked.
REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
# Disks that cannot flush a folder's names say so by these.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def nobody_else() -> None:
    """Asks nobody whether the place is still one's own."""


def write_text(path: Path, text: str, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"), still_ours)


def write_json(path: Path, value: Any, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n", still_ours)


def write_bytes(path: Path, data: bytes, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file aside, flushes it to disk and renames it into place.

    Args:
        path, data: the file and what it is to hold.
        still_ours: raises, right before the file takes its place, if that is no longer this process's to write.

    Raises:
        SaveError: if the disk refuses; what stood there before is what it was.
    """

    def place(aside: Path) -> None:
        still_ours()
        os.replace(aside, path)

    with_room(path, lambda: _write(path, data, place))


def write_new_json(path: Path, value: Any) -> bool:
    """Writes a file that must not be there yet, whole or not at all; whether this process is the one that did."""
    try:
        with_room(path, lambda: _write(path, (json.dumps(value, indent=2) + "\n").encode(), lambda aside: _name(aside, path)))
    except SaveError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return True


def _name(aside: Path, path: Path) -> None:
    """Gives a file a name that nothing has, which a rename would not look at."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a disk without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(aside, path)


@contextmanager
def open_aside(path: Path) -> Iterator[TextIO]:
    """A text file to write to, which gets its name where all that was to be written has been.

    Raises:
        SaveError: if the disk refuses; what stood there before is what it was.
    """
    aside = beside(path, "part")
    try:
        with os.fdopen(_open_new(aside), "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in REFUSALS:
            raise SaveError(f"{path} could not be written ({error}){room_at(path.absolute().parent)}") from error
        raise
    finally:
        remove(aside)


def _open_new(path: Path) -> int:
    """Opens a file that must not be there, nor a link to one."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC, 0o666)


def _write(path: Path, data: bytes, place: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = beside(path, "part")
    try:
        with os.fdopen(_open_new(aside), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(aside)
    finally:
        remove(aside)
    sync_folder(path.parent)


def with_room(path: Path, work: Callable[[], object]) -> None:
    """Does what writes `path`, and says where the disk refuses.

    Raises:
        SaveError: with the disk's own reason.
    """
    try:
        work()
    except SaveError:
        raise
    except Exception as error:
        if not of_the_disk(error):
            raise
        raise SaveError(f"{path} could not be written ({error}){room_at(path.absolute().parent)}") from error


def of_the_disk(error: Exception) -> bool:
    """Whether a disk refused: libraries raise such errors for other reasons too, and those in Rust have their own classes."""
    refused = isinstance(error, OSError) and (error.errno is not None or isinstance(error, shutil.Error))
    return refused or "(os error " in str(error)


def room_at(folder: Path) -> str:
    """How much is free on the disk of a folder that may not be there yet, as the end of a sentence."""
    with suppress(OSError, StopIteration):
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        return f"; {shutil.disk_usage(there).free / 2**20:.0f} MiB are free there"
    return ""


def beside(path: Path, kind: str) -> Path:
    """A name next to `path` that nothing has: of what is half written (`part`) or was there before (`old`)."""
    return path.with_name(f".{path.name}.{token_hex(4)}.{kind}")


def remove(path: Path) -> None:
    """Removes a file, a link or a folder, as far as that is possible; what is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, as `fsync` does a file's contents."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
