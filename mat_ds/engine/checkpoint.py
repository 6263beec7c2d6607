"""Saves and restores a run between two outer steps, on all ranks together.

A checkpoint is written to a temporary folder, where each rank reads back its files to put their checksums into the manifest.
Then it is renamed, and only then named in `latest`; so a checkpoint is complete or does not exist.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mat_ds.engine.engine import Engine
from mat_ds.engine.state import LoadError, describe_state, load_state, loss_scales, write_state
from mat_ds.errors import PeerError, Problem, SaveError, UserError
from mat_ds.ranks.collectives import from_all_ranks, from_rank_zero, on_rank_zero, own_rank, world_size
from mat_ds.storage import checkpoints, folders, integrity
from mat_ds.storage.disk import beside, nobody_else, remove, room_at, write_json, write_text
from mat_ds.storage.folders import finish_folder, write_folder
from mat_ds.storage.integrity import FORMAT, SHARD, Entry, checkpoint_damage, entries_below, is_foreign
from mat_ds.storage.reading import size_of


@dataclass(frozen=True)
class Saved:
    """How long a save took in seconds, and how many bytes it wrote."""

    seconds: float
    bytes: int


def save(
    engine: Engine, folder: Path, state: dict[str, Any], keep_last: int, model: Path | None = None, best: int | None = None,
    still_ours: Callable[[], None] = nobody_else, writer: str = "",
) -> Saved:  # fmt: skip
    """Saves a checkpoint between two outer steps. Every rank must call it.

    Args:
        engine: what to save.
        folder: the run's `checkpoints/`.
        state: the run's own state, JSON types only; its `step` names the checkpoint.
        keep_last: number of checkpoints to keep, this one included; older ones are deleted once this one is complete.
        model: the run's `model/`; the checkpoint gets hard links to its weights.
        best: the step of the best evaluation; its checkpoint, if there is one, is kept as well.
        still_ours: called by rank 0 before it writes and before each rename; raises `Displaced` if another job took the run
            directory.
        writer: identifies this start of the run: the token of its lock.

    Raises:
        Displaced: on every rank, if another job took the run directory.
        NonFiniteError: on every rank, if the state is not finite.
        SaveError: on every rank, if some rank could not write; earlier checkpoints are left as they were.
    """
    started, name = time.perf_counter(), checkpoints.name_of(state["step"])
    engine.check(None)
    scales = loss_scales(engine)
    final = folder / name
    aside = from_rank_zero(beside(final, "part"))

    def begin() -> None:
        still_ours()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.tidy(folder)
        aside.mkdir()

    def describe() -> dict[str, Entry]:
        if model and model.exists():
            folders.copy_files(model, aside / checkpoints.MODEL, _link)
        shards = {"world_size": world_size(), "files": sorted(written)}
        own = {"format": FORMAT, **shards, **describe_state(engine), **scales}
        write_json(aside / integrity.STATE, {"engine": own, "run": state, "writer": writer})
        others = [file for file in integrity.files_below(aside) if file not in written]
        if strangers := list(filter(SHARD.fullmatch, others)):
            raise OSError(errno.EIO, f"no rank wrote {', '.join(strangers)}", str(aside))
        return {file: integrity.entry_of(aside / file) for file in others}

    def put_in_place() -> None:
        if unread := [f"{file}: {entry['error']}" for file, entry in manifest.items() if "error" in entry]:
            raise OSError(errno.EIO, f"what was just written cannot be read: {'; '.join(unread)}", str(aside))
        # File by file, because a network disk may list a folder as it was half a minute ago.
        if unseen := [file for file, entry in manifest.items() if size_of(aside / file) != entry["bytes"]]:
            raise OSError(errno.EIO, f"the first rank does not see all that was written to {', '.join(unseen)}", str(aside))
        write_json(aside / integrity.MANIFEST, manifest)
        finish_folder(aside)
        if os.path.lexists(final) and integrity.verify_checkpoint(final):
            still_ours()
            checkpoints.keep_damaged(final)
        folders.put_in_place(aside, final, still_ours)
        write_text(folder / checkpoints.LATEST, name + "\n", still_ours)
        checkpoints.prune(folder, state["step"], keep_last, best)

    try:
        on_rank_zero(begin)
        written = _together(lambda: {file: integrity.entry_of(aside / file) for file in write_state(engine, aside)})
        manifest = {**written, **on_rank_zero(describe)}
        on_rank_zero(put_in_place)
    except (OSError, PeerError) as error:  # PeerError: rank 0 failed, all ranks are still there
        on_rank_zero(still_ours)  # perhaps the files are gone because another job took the run directory
        on_rank_zero(lambda: remove(aside))
        cause = error.__cause__ if isinstance(error, SaveError) and error.__cause__ else error
        raise SaveError(f"checkpoint {final} could not be written ({cause}){room_at(folder)}") from error
    linked = sum(entry["bytes"] for file, entry in manifest.items() if file.startswith(f"{checkpoints.MODEL}/"))
    return Saved(time.perf_counter() - started, sum(entry["bytes"] for entry in manifest.values()) - linked)


def _together(write: Callable[[], dict[str, Entry]]) -> dict[str, Entry]:
    """Calls `write` on every rank and merges what it returns; if it fails on any, every rank raises OSError."""
    found: dict[str, Entry] = {}
    failure = None
    try:
        found = write()
    except Exception as error:  # for a full disk, safetensors raises exceptions of its own
        failure = error
    shares = from_all_ranks((found, None if failure is None else str(failure)))
    if failed := [(rank, said) for rank, (_, said) in enumerate(shares) if said is not None]:
        raise OSError(str(failure) if failure else f"rank {failed[0][0]} could not write its part: {failed[0][1]}")
    return {name: entry for share, _ in shares for name, entry in share.items()}


def load_checkpoint(
    engine: Engine, candidates: Sequence[Path], model: Path | None = None, still_ours: Callable[[], None] = nobody_else
) -> tuple[dict[str, Any], list[str]]:
    """Restores the engine from the first checkpoint that agrees with its manifest. Every rank must call it.

    Args:
        engine: what to restore; its number of ranks and ZeRO stage may differ from those of the engine that was saved.
        candidates: the checkpoints to try, in this order.
        model: the run's `model/`; it is restored too.
        still_ours: called by rank 0 before it writes; raises `Displaced` if another job took the run directory.

    Returns:
        The run's own state, and remarks: what is wrong with each checkpoint that was skipped, and whether noise differs.

    Raises:
        UserError: on every rank, if none is intact.
    """
    passed_over = []
    for checkpoint in candidates:
        expected = on_rank_zero(lambda checkpoint=checkpoint: integrity.read_manifest(checkpoint))  # type: ignore[misc]
        found = _entries(checkpoint, sorted(expected or ()))
        judged = on_rank_zero(lambda c=checkpoint, e=expected, f=found: _judge(c, e, f))  # type: ignore[misc]
        if isinstance(judged, str):
            passed_over.append(judged)
            continue
        assert expected is not None
        try:
            load_state(engine, [checkpoint / file for file in expected if SHARD.fullmatch(file)], judged["engine"])
        except LoadError as error:
            passed_over.append(f"{checkpoint} is damaged: {error}")
            continue
        files = [file for file in expected if file.startswith(f"{checkpoints.MODEL}/")]
        on_rank_zero(lambda c=checkpoint, f=files: _restore_model(c, f, model, still_ours))  # type: ignore[misc]
        remarks = [f"{what}; passed over, not deleted" for what in (*checkpoints.lost_latest(checkpoint.parent), *passed_over)]
        # Earlier checkpoints do not say where their noise was drawn.
        drawn = engine.sampler.noise_device
        before = judged["engine"].get("noise", drawn)
        if drawn and before not in (None, drawn):
            remarks.append(
                f"method.theta_noise: before {checkpoint.name} the noise was drawn by a {before}, here it is by a {drawn}, "
                "whose numbers are others; the run goes on by the same law, but not bit for bit"
            )
        return judged["run"], remarks
    there = on_rank_zero(lambda: checkpoints.checkpoints_of(candidates[0].parent, beyond_latest=True))
    others = [path for path in there if path not in candidates]
    fix = "bring it back from a copy, or start a run of its own in another output_dir; nothing here was deleted"
    raise UserError(
        *(Problem("train.resume", str(path), what.removeprefix(f"{path} "), fix)
          for path, what in zip(candidates, passed_over, strict=True)),
        *(Problem("train.resume", str(path), "lies beside them, and was not to be continued", f"pass train.resume={path}, "
                  "if that is what you want") for path in others),
    )  # fmt: skip


def _judge(checkpoint: Path, expected: dict[str, Entry] | None, found: dict[str, Entry]) -> dict[str, Any] | str:
    """A checkpoint's state, or why it cannot be used."""
    if wrong := checkpoint_damage(checkpoint, expected, found):
        return f"{checkpoint} is damaged: {wrong}"
    state = integrity.read_state(checkpoint)
    return f"{checkpoint} was written by another version of mat_ds" if is_foreign(state) else state


def _restore_model(checkpoint: Path, files: list[str], model: Path | None, still_ours: Callable[[], None]) -> None:
    """Restores `model/` from a checkpoint; files of the checkpoint that are not in its manifest are not copied."""

    def fill(aside: Path) -> None:
        for file in files:
            target = aside / PurePosixPath(file).relative_to(checkpoints.MODEL)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / file, target)

    if model and files:
        write_folder(model, fill, still_ours)


def _entries(folder: Path, names: list[str]) -> dict[str, Entry]:
    """Size and SHA-256 of each file below `folder`, or the error on reading it. Each rank reads its share of the files."""
    rank, ranks = own_rank(), world_size()
    shares = from_all_ranks(entries_below(folder, names[rank::ranks]))
    return {name: entry for share in shares for name, entry in share.items()}


def _link(source: Path, target: Path) -> None:
    """Makes a hard link to a weight file, if the disk supports it, and a copy of any other file, since users may edit those."""
    if source.suffix == ".safetensors":
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
