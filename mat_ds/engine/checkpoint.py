"""Saving and restoring a run at an outer boundary: all ranks together, whole or not at all.

A checkpoint is written aside, read back into a manifest, renamed into place, and only then named in `latest`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mat_ds import checkpoints
from mat_ds.checkpoints import Entry
from mat_ds.engine.distributed import any_rank, on_rank_zero
from mat_ds.engine.engine import Engine
from mat_ds.engine.state import describe_state, load_state, write_state
from mat_ds.errors import PeerError, Problem, SaveError, UserError
from mat_ds.rundir import new_folder, nobody_else, write_folder, write_json, write_text

WRITING = ".writing"
# 1: DeepSpeed's own shards (mat_ds 0.1.0).
FORMAT = 2


@dataclass(frozen=True)
class Saved:
    """What a save took: seconds, and bytes of files that it wrote."""

    seconds: float
    bytes: int


def save(
    engine: Engine, folder: Path, state: dict[str, Any], keep_last: int, model: Path | None = None, best: int | None = None,
    still_ours: Callable[[], None] = nobody_else,
) -> Saved:  # fmt: skip
    """Saves the run as it stands between two outer steps. Every rank must call it.

    Args:
        engine: what to save.
        folder: the run's `checkpoints/`.
        state: the run's own state, JSON types only; `step` names the checkpoint.
        keep_last: of this and the earlier checkpoints all but so many are deleted, once the new one is in place.
        model: the run's `model/` so far, kept by hard links: the best model is part of the state.
        best: the step of the best evaluation, whose checkpoint is kept too if there is one.
        still_ours: what rank 0 asks before it writes and before each rename; it raises `Displaced` if another job has taken
            the run directory.

    Raises:
        Displaced: on every rank, if that has happened.
        SaveError: on every rank, if some rank could not write; earlier checkpoints are what they were.
    """
    started, name = time.perf_counter(), checkpoints.name_of(state["step"])
    aside, final, old = folder / WRITING / name, folder / name, folder / f".{name}.old"

    def begin() -> None:
        still_ours()
        shutil.rmtree(folder / WRITING, ignore_errors=True)
        aside.mkdir(parents=True)

    def describe() -> list[str]:
        if model and model.exists():
            shutil.copytree(model, aside / checkpoints.MODEL, copy_function=_link)
        own = {"format": FORMAT, "world_size": torch.distributed.get_world_size(), **describe_state(engine)}
        write_json(aside / checkpoints.STATE, {"engine": own, "run": state})
        return checkpoints.files_below(aside)

    def put_in_place() -> None:
        if unread := [f"{file}: {entry['error']}" for file, entry in manifest.items() if "error" in entry]:
            raise OSError(f"what was just written cannot be read: {'; '.join(unread)}")
        write_json(aside / checkpoints.MANIFEST, manifest)
        checkpoints.sync_folder(aside)
        shutil.rmtree(old, ignore_errors=True)
        damaged = final.exists() and checkpoints.verify(final)
        still_ours()
        if damaged:
            final.rename(new_folder(final.with_name(f"{name}.damaged")))
        elif final.exists():
            final.rename(old)
        still_ours()
        try:
            aside.rename(final)
        except OSError:
            if old.exists():
                old.rename(final)
            raise
        checkpoints.sync_folder(folder)
        write_text(folder / checkpoints.LATEST, name + "\n", still_ours)
        for leftover in (folder / WRITING, old):
            shutil.rmtree(leftover, ignore_errors=True)
        checkpoints.prune(folder, state["step"], keep_last, best)

    try:
        on_rank_zero(begin)
        _together(lambda: write_state(engine, aside), engine.device)
        manifest = _entries(aside, on_rank_zero(describe))
        on_rank_zero(put_in_place)
    except (OSError, PeerError) as error:  # not a rank that is gone: it cannot be told anything any more
        on_rank_zero(lambda: shutil.rmtree(folder / WRITING, ignore_errors=True))
        free = shutil.disk_usage(folder).free / 2**20
        raise SaveError(f"checkpoint {final} could not be written ({error}); {free:.0f} MiB are free there") from error
    linked = sum(entry["bytes"] for file, entry in manifest.items() if file.startswith(f"{checkpoints.MODEL}/"))
    return Saved(time.perf_counter() - started, sum(entry["bytes"] for entry in manifest.values()) - linked)


def _together(write: Any, device: torch.device) -> None:
    """Runs `write` on every rank; what one raises, all raise."""
    failure = None
    try:
        write()
    except Exception as error:  # safetensors has classes of its own for a full disk
        failure = error
    if any_rank(failure is not None, device):
        raise OSError(str(failure) if failure else "another rank could not write its part")


def load(engine: Engine, candidates: Sequence[Path], model: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """Restores the engine from the first checkpoint that is what its manifest says. Every rank must call it.

    Args:
        engine: what to restore; it may have another number of ranks or another ZeRO stage than the one that was saved.
        candidates: the checkpoints to try, in this order.
        model: the run's `model/`, which becomes what it was.

    Returns:
        The run's own state, and what is wrong with each checkpoint that was passed over.

    Raises:
        UserError: on every rank, if there is none that can be trusted.
    """
    passed_over = []
    for checkpoint in candidates:
        expected = on_rank_zero(lambda checkpoint=checkpoint: checkpoints.read_manifest(checkpoint))  # type: ignore[misc]
        if found := checkpoints.damage(expected, _entries(checkpoint, sorted(expected or ()))):
            passed_over.append(f"{checkpoint} is damaged: {found}")
            continue
        state = checkpoints.read_state(checkpoint)
        if state.get("engine", {}).get("format") != FORMAT:
            passed_over.append(f"{checkpoint} was written by another version of mat_ds")
            continue
        assert expected is not None
        load_state(engine, [checkpoint / file for file in expected if file.startswith("rank-")], state["engine"])
        on_rank_zero(lambda checkpoint=checkpoint: _restore_model(checkpoint, model))  # type: ignore[misc]
        return state["run"], passed_over
    raise UserError(*(
        Problem("train.resume", str(path), what.removeprefix(f"{path} "), "bring it back from a copy, or start a run of its "
                "own in another output_dir; nothing here was deleted")
        for path, what in zip(candidates, passed_over, strict=True)
    ))  # fmt: skip


def _restore_model(checkpoint: Path, model: Path | None) -> None:
    if model and (checkpoint / checkpoints.MODEL).exists():
        write_folder(model, lambda aside: _copy(checkpoint / checkpoints.MODEL, aside))


def _entries(folder: Path, names: list[str]) -> dict[str, Entry]:
    """Size and SHA-256 of files below `folder`, each rank reading its share, or the error of one that cannot be read."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    shares: list[dict[str, Entry]] = [{} for _ in range(ranks)]
    torch.distributed.all_gather_object(shares, {name: checkpoints.entry_of(folder / name) for name in names[rank::ranks]})
    return {name: entry for share in shares for name, entry in share.items()}


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
