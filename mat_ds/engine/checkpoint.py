"""Checkpoints at outer boundaries: written aside, listed in a manifest, renamed into place, then named in `latest`.

A checkpoint holds DeepSpeed's shards (parameters, moments, mixture, loss scale) and the run's own state as JSON. Random
generators need no saving: every draw comes from a key.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from mat_ds.engine.distributed import barrier, from_rank_zero
from mat_ds.engine.engine import Engine
from mat_ds.rundir import write_json, write_text

LATEST = "latest"
STATE = "state.json"
MANIFEST = "manifest.json"
WRITING = ".writing"


def save(engine: Engine, folder: Path, state: dict[str, Any], keep_last: int) -> None:
    """Saves the run as it stands between two outer steps. Every rank must call it.

    Args:
        engine: what to save.
        folder: the run's `checkpoints/`.
        state: the run's own state, JSON types only; `step` names the checkpoint.
        keep_last: of this and the earlier checkpoints all but so many are deleted, once the new one is in place; later
            ones, of a run continued from one before them, stay until they are written again.
    """
    name, rank = f"step-{state['step']:08d}", torch.distributed.get_rank()
    aside, final = folder / WRITING, folder / name
    if rank == 0:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    barrier()
    engine.ds.save_checkpoint(str(aside), tag=name, save_latest=False)
    barrier()
    if rank == 0:
        write_json(aside / name / STATE, state)
        write_json(aside / name / MANIFEST, _manifest(aside / name))
        shutil.rmtree(final, ignore_errors=True)
        (aside / name).rename(final)
        write_text(folder / LATEST, name + "\n")
        shutil.rmtree(aside, ignore_errors=True)
        earlier = sorted(path for path in folder.glob("step-*") if path.name <= name)
        for old in earlier[:-keep_last]:
            shutil.rmtree(old)
    barrier()


def load(engine: Engine, checkpoint: Path) -> dict[str, Any]:
    """Restores the engine and returns the run's own state. Every rank must call it.

    Raises:
        RuntimeError: on every rank, if a file of the checkpoint is missing or not as it was written.
    """
    damage = from_rank_zero(_damage(checkpoint) if torch.distributed.get_rank() == 0 else [])
    if damage:
        raise RuntimeError(f"checkpoint {checkpoint} is damaged: {'; '.join(damage)}")
    engine.ds.load_checkpoint(str(checkpoint.parent), tag=checkpoint.name)
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The run's own state in a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return state


def find(path: Path) -> Path | None:
    """The checkpoint that `path` means: itself, or the latest of a run directory or of its `checkpoints/`."""
    if (path / STATE).exists():
        return path
    for folder in (path, path / "checkpoints"):
        if (folder / LATEST).exists():
            return folder / (folder / LATEST).read_text(encoding="utf-8").strip()
    return None


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below `folder`, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}


def _damage(folder: Path) -> list[str]:
    """What differs from the manifest."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return ["it has no manifest"]
    found = []
    for name, listed in json.loads(manifest.read_text(encoding="utf-8")).items():
        file = folder / name
        if not file.exists():
            found.append(f"{name} is missing")
        elif file.stat().st_size != listed["bytes"] or _sha256(file) != listed["sha256"]:
            found.append(f"{name} is not what was written")
    return found


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
