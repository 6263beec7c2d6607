"""Checkpoint folders on disk: finds them, tells which can be trusted, and deletes old ones.

    checkpoints/step-00000120/rank-00000-0.safetensors ...   written by `mat_ds.engine.state`
                              state.json                     the run's own state
                              model/                         the best model so far
                              manifest.json                  size and SHA-256 of every other file, written last
    checkpoints/latest                                       name of the checkpoint to continue from

A checkpoint is trusted only if every file matches its manifest. A damaged one is reported and skipped; it is never loaded and
never deleted.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import beside, remove
from mat_ds.storage.folders import restore
from mat_ds.storage.integrity import read_manifest
from mat_ds.storage.reading import read_bytes
from mat_ds.storage.rundir import new_folder

LATEST, MODEL = "latest", "model"
NAME = re.compile(r"step-(\d{8,18})", re.ASCII)
# SET_ASIDE: the previous checkpoint of a step that is being saved again. LEFTOVER: half written, or about to be deleted.
SET_ASIDE = re.compile(r"\.(step-\d{8,18})\.([0-9a-f]{8}\.)?old", re.ASCII)
LEFTOVER = re.compile(r"\.((step-\d{8,18}|latest)\.[0-9a-f]{8}\.(part|gone)|writing)", re.ASCII)


def name_of(step: int) -> str:
    """Folder name of the checkpoint after `step` outer steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's folder name; None if it is not such a name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found and name_of(int(found[1])) == name else None


def checkpoints_of(path: Path, beyond_latest: bool = False) -> list[Path]:
    """The checkpoints at `path`, the one to continue from first.

    Checkpoints later than `latest` belong to a run that was afterwards continued from an earlier one. If `latest` cannot be
    read, the newest checkpoint comes first.

    Args:
        path: a run, its `checkpoints/`, or one checkpoint.
        beyond_latest: whether to list checkpoints later than `latest` too.
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
    # in a folder that is read-only for this user, a set-aside checkpoint cannot be renamed back: use it where it is
    found = {step: entry for step, entry in set_aside.items() if entry.is_dir()} | found
    last = None if beyond_latest else latest_of(folder)
    return [found[step] for step in sorted(found, reverse=True) if last is None or step <= last]


def latest_of(folder: Path) -> int | None:
    """The step that `latest` names; None if it cannot be read."""
    try:
        return step_of(read_bytes(folder / LATEST, 1000).decode("utf-8").strip())
    except (OSError, ValueError):
        return None


def lost_latest(folder: Path) -> list[str]:
    """A message if `latest` names a checkpoint that does not exist; else an empty list."""
    step = latest_of(folder)
    gone = step is not None and not (folder / name_of(step)).is_dir()
    return [f"{folder / LATEST} names {name_of(step or 0)}, which is not there"] if gone else []


def damaged_of(path: Path) -> list[Path]:
    """Damaged checkpoints of a run, which were renamed when their step was saved again."""
    return sorted(entry for entry in _listed(_folder_of(path.resolve())) if ".damaged" in entry.name)


def keep_damaged(path: Path) -> None:
    """Renames a damaged checkpoint (or another file in its place) instead of deleting it."""
    place = new_folder(path.with_name(f"{path.name}.damaged"))
    is_folder = path.is_dir() and not path.is_symlink()  # a file or link cannot replace a folder
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
    """The folders in a folder; empty if it does not exist.

    Raises:
        UserError: if the folder cannot be read: an unmounted disk must not look like a run without checkpoints.
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
    """Restores what a crashed process set aside and removes what it left half written. Only for the holder of the run's
    lock."""
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
    """Deletes old checkpoints: keeps the last `keep_last` up to step `newest`, and that of step `best`.

    Checkpoints later than `newest` (of a run resumed from an earlier one) and damaged ones stay. A disk that refuses the
    deletion is ignored.
    """
    with suppress(OSError):
        steps = sorted(step for entry in _folders_in(folder) if (step := step_of(entry.name)) is not None and step <= newest)
        for step in steps[:-keep_last]:
            checkpoint = folder / name_of(step)
            if step != best and _looks_whole(checkpoint):
                gone = beside(checkpoint, "gone")
                checkpoint.rename(gone)  # so that a crash during deletion leaves no partial checkpoint
                remove(gone)


def _looks_whole(checkpoint: Path) -> bool:
    """Whether all files exist with the right sizes."""
    expected = read_manifest(checkpoint)
    sizes = {name: (checkpoint / name) for name in expected or {}}
    return expected is not None and all(
        file.is_file() and file.stat().st_size == expected[name]["bytes"] for name, file in sizes.items()
    )
