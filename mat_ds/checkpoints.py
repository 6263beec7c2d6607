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

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LATEST, STATE, MANIFEST, MODEL = "latest", "state.json", "manifest.json", "model"
NAME = re.compile(r"step-(\d{8,})")

Entry = dict[str, Any]


def name_of(step: int) -> str:
    """Folder name of the checkpoint after `step` outer steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step in a checkpoint's folder name; None of another name."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def entry_of(file: Path) -> Entry:
    """Size and SHA-256 of a file, brought to the disk first; or the error of one that cannot be read."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            while block := stream.read(1 << 20):
                digest.update(block)
        return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
    except OSError as error:
        return {"error": str(error)}


def files_below(folder: Path) -> list[str]:
    """All files below `folder` but its manifest, in order."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST)


def read_manifest(checkpoint: Path) -> dict[str, Entry] | None:
    """File name -> size and SHA-256; None if there is no manifest that can be read."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and STATE in manifest else None


def damage(expected: dict[str, Entry] | None, found: dict[str, Entry]) -> str | None:
    """What is wrong with a checkpoint in which `found` are the files that `expected` lists; None if nothing is."""
    if expected is None:
        return "it has no manifest that can be read"
    wrong = [
        f"{name} is missing or cannot be read" if "error" in found.get(name, {"error": ""})
        else f"{name} has {found[name]['bytes']} bytes, not {entry['bytes']}" if found[name]["bytes"] != entry["bytes"]
        else f"{name} does not hold what was written"
        for name, entry in expected.items() if found.get(name) != entry
    ]  # fmt: skip
    return "; ".join(wrong) or None


def verify(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it read; None if nothing is."""
    expected = read_manifest(checkpoint)
    return damage(expected, {name: entry_of(checkpoint / name) for name in expected or {}})


def checkpoints_of(path: Path, beyond_latest: bool = False) -> list[Path]:
    """The checkpoints that `path` means, the one to continue from first: itself, or those of a run or of its `checkpoints/`.

    Later ones than `latest` names belong to a run that was then continued from an earlier one. Where `latest` says nothing
    that can be read, the newest comes first.

    Args:
        path: a run, its `checkpoints/`, or one checkpoint.
        beyond_latest: whether to list those later ones too.
    """
    path = path.resolve()
    if step_of(path.name) is not None and path.is_dir():
        return [path]
    folder = _folder_of(path)
    found = {step: entry for entry in _listed(folder) if (step := step_of(entry.name)) is not None}
    try:
        last = None if beyond_latest else step_of((folder / LATEST).read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        last = None
    return [found[step] for step in sorted(found, reverse=True) if last is None or step <= last]


def damaged_of(path: Path) -> list[Path]:
    """Checkpoints of a run that were found damaged and set aside when their step was saved again."""
    return sorted(entry for entry in _listed(_folder_of(path.resolve())) if ".damaged" in entry.name)


def _folder_of(path: Path) -> Path:
    return path / "checkpoints" if (path / "checkpoints").is_dir() else path


def _listed(folder: Path) -> Iterable[Path]:
    return (entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else ()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The run's own state in a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def prune(folder: Path, newest: int, keep_last: int, best: int | None) -> None:
    """Deletes the checkpoints before the last `keep_last` up to step `newest`, but for that of step `best`.

    Later ones, of a run continued from one before them, stay until they are written again; damaged ones stay too.
    """
    steps = sorted(step for entry in _listed(folder) if (step := step_of(entry.name)) is not None and step <= newest)
    for step in steps[:-keep_last]:
        checkpoint = folder / name_of(step)
        if step != best and _looks_whole(checkpoint):
            shutil.rmtree(checkpoint)


def _looks_whole(checkpoint: Path) -> bool:
    """Whether all files are there in their sizes."""
    expected = read_manifest(checkpoint)
    sizes = {name: (checkpoint / name) for name in expected or {}}
    return expected is not None and all(
        file.is_file() and file.stat().st_size == expected[name]["bytes"] for name, file in sizes.items()
    )


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, as `fsync` does a file's contents."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
