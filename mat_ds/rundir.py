"""The run directory: what is in it, and how a file gets there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

from mat_ds.errors import Interrupted


def nobody_else() -> None:
    """Asks nobody whether the place is still one's own."""


def write_text(path: Path, text: str, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"), still_ours)


def write_bytes(path: Path, data: bytes, still_ours: Callable[[], None] = nobody_else) -> None:
    """Writes a file aside, flushes it to disk and renames it into place.

    Args:
        path, data: the file and what it is to hold.
        still_ours: raises, right before the file takes its place, if that is no longer this process's to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    still_ours()
    os.replace(aside, path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None], still_ours: Callable[[], None] = nobody_else) -> None:
    """Replaces a folder by what `fill` writes into an empty one; the old one is there until the new one is complete.

    Args:
        path, fill: the folder, and what writes its files.
        still_ours: raises, before anything is written and right before each rename, if the place is no longer this
            process's to write.
    """
    still_ours()
    aside, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # an earlier process died between the two renames below
        old.rename(path)
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        fill(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    still_ours()
    if path.exists():
        path.rename(old)
        still_ours()
    aside.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file, a block of it in memory at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def new_folder(path: Path) -> Path:
    """Makes a folder that did not exist: `path`, or if another run took it this second, `path-2`, `path-3`, ..."""
    for name in chain([path.name], (f"{path.name}-{i}" for i in count(2))):
        try:
            path.with_name(name).mkdir(parents=True)
            break
        except FileExistsError:
            continue
    return path.with_name(name)


class RunDirectory:
    """Paths of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.events = path / "events.jsonl"
        self.log = path / "train.log"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.predictions = path / "predictions"
        self.plots = path / "plots"
        self.tracking = path / "tracking.json"
        self.tracking_log = path / "tracking.log"
        self.interrupted = path / "interrupted.json"

    @property
    def holds_a_run(self) -> bool:
        """Whether a run has begun here."""
        return self.config.exists()

    def create(self) -> None:
        """Makes the folders, of a run that begins or goes on."""
        self.interrupted.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.predictions, self.plots):
            folder.mkdir(parents=True, exist_ok=True)


def run_folders(path: Path) -> Iterator[Path]:
    """The run directories at or below a folder; there are none within one."""
    for folder, below, files in os.walk(path):
        if {"config.yaml", "environment.json"} <= set(files):
            yield Path(folder)
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))


def mark_interrupted(rundir: RunDirectory, interruption: Interrupted) -> None:
    """Leaves word for whoever may start the run again, such as a SLURM script, that it was told to stop and can go on."""
    write_json(rundir.interrupted, {"reason": str(interruption), "time": time.strftime("%Y-%m-%d %H:%M:%S")})
