"""Checks the folders that a run writes to: whether files can be written there, and how much room is left."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.doctor.rows import Row, brief, failed, passed, warned

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

GIB = 2**30
# Per parameter: its value, two moments of the optimizer and a running average, each in fp32.
CHECKPOINT_BYTES = 16
LITTLE = 5 * GIB
LITTLE_TEMPORARY = GIB
# Shared memory for gloo and NCCL, generously. Docker's default is 64 MiB for a whole container.
SHARED_BYTES_PER_RANK = 256 * 2**20
SLOW_SECONDS = 1.0
SHARED_MEMORY = Path("/dev/shm")


def nearest_folder(path: Path) -> Path:
    """The path, or if it does not exist, the nearest parent folder that does."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())


def check_disks(folder: Path, parameters: int | None, checkpoints: int, world: World) -> Iterator[Row]:
    """Checks the run directory, the folder for temporary files and the shared memory.

    Args:
        folder: the run directory, or its nearest parent that exists.
        parameters: number of the model's parameters; None if unknown.
        checkpoints: how many the run keeps at the same time.
        world: this rank.
    """
    size = parameters * CHECKPOINT_BYTES if parameters else 0
    wants = f"{checkpoints} checkpoints of up to {size / GIB:.1f} GiB" if size else ""
    yield _rate("output_dir", folder, checkpoints * size or LITTLE, size, wants, "name another output_dir")
    yield _rate("temporary", Path(tempfile.gettempdir()), LITTLE_TEMPORARY, 0, "", "export TMPDIR=<a folder with room>")
    if SHARED_MEMORY.is_dir():
        enough = SHARED_BYTES_PER_RANK * world.local_size
        yield _rate("shared memory", SHARED_MEMORY, enough, 0, f"{enough / GIB:.2f} GiB for the ranks of this node",
                     "delete what others left there; in a container: docker run --ipc=host, or --shm-size=8g")  # fmt: skip


def _rate(name: str, folder: Path, enough: int, needed: int, wants: str, fix: str) -> Row:
    try:
        seconds = write(folder)
    except OSError as error:
        return failed(name, f"{folder}: nothing can be written there ({brief(error)})", fix)
    free = free_bytes(folder)
    found = f"{folder}: {free / GIB:.1f} GiB free" + (f", wanted: {wants}" if wants else "")
    if free < needed:
        return failed(name, found, fix)
    if free < enough:
        return warned(name, found, f"make room, or {fix}")
    if seconds > SLOW_SECONDS:
        return warned(name, f"{found}; a file of 1 MiB took {seconds:.1f} s", f"{fix}, on a faster disk")
    return passed(name, found)


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write."""
    return shutil.disk_usage(folder).free


def write(folder: Path) -> float:
    """Writes, flushes and renames a file of 1 MiB, as checkpoints are written; returns the seconds this took."""
    started = time.perf_counter()
    handle, aside = tempfile.mkstemp(prefix=".mat-ds-doctor-", dir=folder)
    path = Path(aside)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
        path = path.rename(path.with_suffix(".renamed"))
    finally:
        path.unlink(missing_ok=True)
    return time.perf_counter() - started
