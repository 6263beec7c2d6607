"""Checkpoint folders as files on a disk: which there are, which can be trusted, which are kept.

    checkpoints/step-00000120/rank-00000-0.safetensors ...   what `mat_ds.engine.state` writes
                              state.json                     the run's own state
                              model/                         the best model so far
                              manifest.json                  size and SHA-256 of every other file, written last
    checkpoints/latest                                       the name of the one to continue from

A checkpoint is trusted only if every file is what its manifest says. One that is not is told of and passed over; it is never
loaded and never deleted.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import beside, remove
from mat_ds.storage.folders import restore
from mat_ds.storage.integrity import MANIFEST, STATE, Entry, entry_of, files_below, read_manifest, read_state, verify_checkpoint
from mat_ds.storage.reading import read_bytes
from mat_ds.storage.rundir import new_folder

__all__ = [
    "LATEST", "MANIFEST", "MODEL", "STATE", "Entry", "checkpoints_of", "damaged_of", "entry_of", "files_below", "keep_damaged",
    "latest_of", "lost_latest", "name_of", "prune", "read_manifest", "read_state", "step_of", "tidy", "verify_checkpoint",
]  # fmt: skip

LATEST, MODEL = "latest", "model"
NAME = re.compile(r"step-(\d{8,18})", re.ASCII)
# What was set aside while its step was saved again; half written, or about to be deleted.
SET_ASIDE = re.compile(r"\.(step-\d{8,18})\.([0-9a-f]{8}\.)?old", re.ASCII)
LEFTOVER = re.compile(r"\.((step-\d{8,18}|latest)\.[0-9a-f]{8}\.(part|gone)|writing)", re.ASCII)


def name_of(step: int) -> str:
    """Folder name of the checkpoint after `step` outer steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's folder name; None of another name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found and name_of(int(found[1])) == name else None


def checkpoints_of(path: Path, beyond_latest: bool = False) -> list[Path]:
    """The checkpoints that `path` means, the one to continue from first: itself, or those of a run or of its `checkpoints/`.

    Later ones than `latest` names belong to a run that was then continued from an earlier one. Where `latest` says nothing
    that can be read, the newest comes first.

    Args:
        path: a run, its `checkpoints/`, or one checkpoint.
        beyond_latest: whether to list those later ones too.
    """
    path = path.resolve()
    if step_of(path.name) is not None:
        _restore(path)
        if path.is_dir():
            return [path]
    folder = _folder_of(path)
    set_aside = {step: entry for entry in _listed(folder) if (step := _step_set_aside(entry.name)) is not None}
    for step in set_aside:
        _restore(folder / name_of(step))
    found = {step: entry for entry in _listed(folder) if (step := step_of(entry.name)) is not None}
    # What may not be renamed, as in another's run, is read where it lies.
    found = {step: entry for step, entry in set_aside.items() if entry.is_dir()} | found
    last = None if beyond_latest else latest_of(folder)
    return [found[step] for step in sorted(found, reverse=True) if last is None or step <= last]


def latest_of(folder: Path) -> int | None:
    """The step that `latest` names; None where it says nothing that can be read."""
    try:
        return step_of(read_bytes(folder / LATEST, 1000).decode("utf-8").strip())
    except (OSError, ValueError):
        return None


def lost_latest(folder: Path) -> list[str]:
    """That `latest` names a checkpoint which is not there, if it does."""
    step = latest_of(folder)
    gone = step is not None and not (folder / name_of(step)).is_dir()
    return [f"{folder / LATEST} names {name_of(step or 0)}, which is not there"] if gone else []


def damaged_of(path: Path) -> list[Path]:
    """Checkpoints of a run that were found damaged and set aside when their step was saved again."""
    return sorted(entry for entry in _listed(_folder_of(path.resolve())) if ".damaged" in entry.name)


def keep_damaged(path: Path) -> None:
    """Gives a damaged checkpoint, or whatever has the name of one, another name: nothing that was there is deleted."""
    place = new_folder(path.with_name(f"{path.name}.damaged"))
    is_folder = path.is_dir() and not path.is_symlink()  # nothing else can take a folder's place
    path.rename(place if is_folder else place / path.name)


def _step_set_aside(name: str) -> int | None:
    found = SET_ASIDE.fullmatch(name)
    return step_of(found[1]) if found else None


def _restore(checkpoint: Path) -> None:
    with suppress(OSError):
        restore(checkpoint)


def _folder_of(path: Path) -> Path:
    return path / "checkpoints" if os.path.lexists(path / "checkpoints") else path


def _listed(folder: Path) -> list[Path]:
    """The folders in a folder.

    Raises:
        UserError: if it is there and cannot be read: a disk that is not mounted must not look like a run without checkpoints.
    """
    if not os.path.lexists(folder) or (folder.exists() and not folder.is_dir() and folder.name != "checkpoints"):
        return []
    try:
        return _folders_in(folder)
    except OSError as error:
        raise UserError(Problem("checkpoints", str(folder), f"cannot be read: {error.strerror}",
                                "mount the disk or mend the permissions; nothing there was changed")) from None  # fmt: skip


def _folders_in(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir()]


def tidy(folder: Path) -> None:
    """Puts back what a process that died had set aside, and removes what it left half written; for the run's holder alone."""
    for entry in _folders_in(folder):
        if (step := _step_set_aside(entry.name)) is not None:
            restore(folder / name_of(step))
    if (folder / LATEST).is_dir() and not (folder / LATEST).is_symlink():
        keep_damaged(folder / LATEST)
    for entry in folder.iterdir():
        step = _step_set_aside(entry.name)
        if LEFTOVER.fullmatch(entry.name) or (step is not None and (folder / name_of(step)).exists()):
            remove(entry)


def prune(folder: Path, newest: int, keep_last: int, best: int | None) -> None:
    """Deletes the checkpoints before the last `keep_last` up to step `newest`, but for that of step `best`.

    Later ones, of a run continued from one before them, stay until they are written again; damaged ones stay too. One that a
    disk does not let go is no reason to stop.
    """
    with suppress(OSError):
        steps = sorted(step for entry in _folders_in(folder) if (step := step_of(entry.name)) is not None and step <= newest)
        for step in steps[:-keep_last]:
            checkpoint = folder / name_of(step)
            if step != best and _looks_whole(checkpoint):
                gone = beside(checkpoint, "gone")
                checkpoint.rename(gone)  # a process that dies on the way shall not leave half a checkpoint
                remove(gone)


def _looks_whole(checkpoint: Path) -> bool:
    """Whether all files are there in their sizes."""
    expected = read_manifest(checkpoint)
    sizes = {name: (checkpoint / name) for name in expected or {}}
    return expected is not None and all(
        file.is_file() and file.stat().st_size == expected[name]["bytes"] for name, file in sizes.items()
    )
