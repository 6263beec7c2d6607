"""Writes files atomically: a file is complete, or it is what it was before.

A new file is written under a hidden, unpredictable name (so nobody can plant a link there) and then renamed. A process that is
killed leaves at most such a hidden file: `.<name>.<8 hex digits>.part` is half written; `.old` is the previous one, which is
put back if nothing has taken its place (`mat_ds.storage.folders.restore`).
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

# Error numbers that mean the disk refuses to write.
REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
)  # fmt: skip
# Error numbers of file systems that cannot fsync a folder.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def nobody_else() -> None:
    """The default check before a write: nobody else can own the place."""


def write_text(path: Path, text: str, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file in UTF-8, atomically; arguments and errors as in `write_bytes`."""
    write_bytes(path, text.encode("utf-8"), still_ours)


def write_json(path: Path, value: Any, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes `value` as indented JSON, atomically; arguments and errors as in `write_bytes`."""
    write_text(path, json.dumps(value, indent=2) + "\n", still_ours)


def write_bytes(path: Path, data: bytes, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file under another name, flushes it to disk and renames it into place.

    Args:
        path, data: the file and its contents.
        still_ours: called just before the rename; raises if this process may no longer write there.

    Raises:
        SaveError: if the disk refuses; the previous file is unchanged.
    """

    def place(aside: Path) -> None:
        still_ours()
        os.replace(aside, path)

    with_room(path, lambda: _write(path, data, place))


def write_new_json(path: Path, value: Any) -> bool:
    """Writes a file that must not exist yet, atomically. Returns False if another process created it first."""
    try:
        with_room(path, lambda: _write(path, (json.dumps(value, indent=2) + "\n").encode(), lambda aside: _create(aside, path)))
    except SaveError as error:
        if isinstance(error.__cause__, FileExistsError):
            return False
        raise
    return True


def _create(aside: Path, path: Path) -> None:
    """Gives a file a name that is not taken; unlike a rename, a link never replaces an existing file."""
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(aside, path)


@contextmanager
def open_aside(path: Path) -> Iterator[TextIO]:
    """Opens a text file for writing, which is renamed to `path` when the context ends without an error.

    Raises:
        SaveError: if the disk refuses; the previous file is unchanged.
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
    """Creates a file; fails if there is a file or a link of that name."""
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
    """Calls `work`, which writes `path`, and turns a disk's refusal into `SaveError`.

    Raises:
        SaveError: with the disk's reason and its free space.
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
    """Whether an error means that the disk refused. Libraries raise OSError for other reasons too, and those in Rust raise
    their own classes."""
    refused = isinstance(error, OSError) and (error.errno is not None or isinstance(error, shutil.Error))
    return refused or "(os error " in str(error)


def room_at(folder: Path) -> str:
    """The free space on a folder's disk, as the end of an error message; the folder need not exist yet."""
    with suppress(OSError, StopIteration):
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        return f"; {shutil.disk_usage(there).free / 2**20:.0f} MiB are free there"
    return ""


def beside(path: Path, kind: str) -> Path:
    """An unused hidden name next to `path`; `kind` is `part` (half written) or `old` (replaced)."""
    return path.with_name(f".{path.name}.{token_hex(4)}.{kind}")


def remove(path: Path) -> None:
    """Removes a file, link or folder as far as possible; ignores errors."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk, as `fsync` does for a file's contents."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)
