"""Checkpoints at outer boundaries: written aside, listed in a manifest, renamed into place, then named in `latest`.

A checkpoint holds DeepSpeed's shards (trained parameters, moments, mixture, loss scale) and the run's own state as JSON.
Frozen parameters are those of the folder they came from. Random generators need no saving: every draw comes from a key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from mat_ds.engine.distributed import any_rank, on_rank_zero
from mat_ds.engine.engine import Engine
from mat_ds.rundir import write_folder, write_json, write_text

LATEST = "latest"
STATE = "state.json"
MANIFEST = "manifest.json"
MODEL = "model"
WRITING = ".writing"


def save(engine: Engine, folder: Path, state: dict[str, Any], keep_last: int, model: Path | None = None) -> None:
    """Saves the run as it stands between two outer steps. Every rank must call it.

    Args:
        engine: what to save.
        folder: the run's `checkpoints/`.
        state: the run's own state, JSON types only; `step` names the checkpoint.
        keep_last: of this and the earlier checkpoints all but so many are deleted, once the new one is in place; later
            ones, of a run continued from one before them, stay until they are written again.
        model: the run's `model/` so far, kept by hard links: the best model is part of the state.
    """
    name = f"step-{state['step']:08d}"
    aside, final, old = folder / WRITING, folder / name, folder / f".{name}.old"

    def begin() -> None:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)

    def describe() -> list[str]:
        if model and model.exists():
            shutil.copytree(model, aside / name / MODEL, copy_function=_link)
        write_json(aside / name / STATE, state)
        return _files(aside / name)

    def put_in_place() -> None:
        if unread := [f"{file}: {entry['error']}" for file, entry in manifest.items() if "error" in entry]:
            raise OSError(f"the checkpoint just written cannot be read: {'; '.join(unread)}")
        write_json(aside / name / MANIFEST, manifest)
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        (aside / name).rename(final)
        write_text(folder / LATEST, name + "\n")
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        earlier = sorted(path for path in folder.glob("step-*") if path.name <= name)
        for path in earlier[:-keep_last]:
            shutil.rmtree(path)

    on_rank_zero(begin)
    failure = None
    try:
        engine.ds.save_checkpoint(str(aside), tag=name, save_latest=False, exclude_frozen_parameters=True)
    except Exception as error:  # torch raises RuntimeError where a disk is full
        failure = error
    if any_rank(failure is not None, engine.device):
        raise failure or RuntimeError("another rank could not write its part of a checkpoint")
    manifest = _manifest(aside / name, on_rank_zero(describe))
    on_rank_zero(put_in_place)


def load(engine: Engine, checkpoint: Path, model: Path | None = None) -> dict[str, Any]:
    """Restores the engine and returns the run's own state. Every rank must call it.

    Args:
        engine: what to restore.
        checkpoint: one of the folders that `save` writes.
        model: the run's `model/`, which becomes what it was.

    Raises:
        RuntimeError: on every rank, if a file of the checkpoint is missing or not as it was written.
    """

    def listed() -> dict[str, dict[str, Any]]:
        if not (checkpoint / MANIFEST).exists():
            raise RuntimeError(f"checkpoint {checkpoint} is damaged: it has no manifest")
        found: dict[str, dict[str, Any]] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return found

    def restore() -> None:
        if model and (checkpoint / MODEL).exists():
            write_folder(model, lambda aside: _copy(checkpoint / MODEL, aside))

    expected = on_rank_zero(listed)
    found = _manifest(checkpoint, sorted(expected))
    if damage := [name for name, entry in expected.items() if found.get(name) != entry]:
        raise RuntimeError(f"checkpoint {checkpoint} is damaged: missing or not as written: {', '.join(damage)}")
    whole = all(parameter.requires_grad for parameter in engine.ds.module.parameters())
    engine.ds.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name, load_module_strict=whole)
    on_rank_zero(restore)
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The run's own state in a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def find(path: Path) -> Path | None:
    """The checkpoint that `path` means: itself, or the latest of a run directory or of its `checkpoints/`."""
    path = path.resolve()
    if (path / STATE).exists():
        return path
    for folder in (path, path / "checkpoints"):
        if (folder / LATEST).exists():
            named = folder / (folder / LATEST).read_text(encoding="utf-8").strip()
            # A process that died while it replaced a checkpoint leaves a name without a folder.
            return named if named.exists() else max(folder.glob("step-*"), default=None)
    return None


def _manifest(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files below `folder`, each rank reading its share, or the error of one that cannot be read."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares: list[dict[str, dict[str, Any]]] = [{} for _ in range(ranks)]
    torch.distributed.all_gather_object(shares, {name: _entry(folder / name) for name in names[rank::ranks]})
    return {name: entry for share in shares for name, entry in share.items()}


def _files(folder: Path) -> list[str]:
    """All files below `folder`; for rank 0 to say, since a network disk may show each node another list."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _entry(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
            os.fsync(stream.fileno())
        return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
    except OSError as error:  # told to all ranks by whoever compares entries
        return {"error": str(error)}


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """A hard link for weights, where the disk has them; a copy for what a user may edit."""
    try:
        if source.endswith(".safetensors"):
            os.link(source, target)
            return
    except OSError:
        pass
    shutil.copy2(source, target)
