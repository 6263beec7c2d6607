"""Whether a checkpoint is what was written: the one judgement that resume, `mat-ds verify` and `mat-ds export` share.

Nothing in a checkpoint's folder is believed before it has been looked at. Whatever is not as this program writes it, in
whatever way, is damage: a sentence for the user, never an error.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mat_ds.errors import printable
from mat_ds.storage.progress import progress_fault
from mat_ds.storage.reading import load_json, open_regular
from mat_ds.storage.stretches import stretch_fault

STATE, MANIFEST = "state.json", "manifest.json"
# Of `state.json` and the files beside it; 1: DeepSpeed's own shards (mat_ds 0.1.0).
FORMAT = 2
SHARD = re.compile(r"rank-\d{5,9}-\d{1,9}\.safetensors", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
# Of a long list of faults no more are said.
FAULTS_SAID = 10

Entry = dict[str, Any]


def entry_of(file: Path) -> Entry:
    """Size and SHA-256 of a file, brought to the disk first; or the error of one that cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with open_regular(file) as stream:
            os.fsync(stream.fileno())
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
        return {"bytes": size, "sha256": digest.hexdigest()}
    except (OSError, ValueError) as error:
        return {"error": str(error)}


def entries_below(folder: Path, names: Iterable[str]) -> dict[str, Entry]:
    """`entry_of` of each file, unless a link stands between it and the folder."""
    found = {}
    for name in names:
        between = [folder / parent for parent in PurePosixPath(name).parents if parent.name]
        found[name] = {"error": "a link"} if any(map(os.path.islink, between)) else entry_of(folder / name)
    return found


def files_below(folder: Path) -> list[str]:
    """All regular files below `folder` but its manifest, in order."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(name for path in found if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def read_manifest(checkpoint: Path) -> dict[str, Entry] | None:
    """File name -> size and SHA-256; None if there is no manifest that can be read, or it is not one."""
    try:
        manifest = load_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return None
    right = isinstance(manifest, dict) and STATE in manifest and all(map(_is_listed, manifest.items()))
    return manifest if right else None


def _is_listed(item: tuple[str, Any]) -> bool:
    """Whether a line of a manifest is a name within its folder, with a size and a digest."""
    name, entry = item
    path = PurePosixPath(name)
    inside = name.isprintable() and path.as_posix() == name and not path.is_absolute() and ".." not in path.parts
    return (
        inside
        and name not in ("", ".", MANIFEST)
        and isinstance(entry, dict)
        and entry.keys() == {"bytes", "sha256"}
        and is_count(entry["bytes"])
        and isinstance(entry["sha256"], str)
        and SHA256.fullmatch(entry["sha256"]) is not None
    )


def is_count(value: Any) -> bool:
    """Whether a value out of JSON is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def verify_checkpoint(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, every byte of it read; None if nothing is."""
    expected = read_manifest(checkpoint)
    return checkpoint_damage(checkpoint, expected, entries_below(checkpoint, expected or ()))


def checkpoint_damage(checkpoint: Path, expected: dict[str, Entry] | None, found: dict[str, Entry]) -> str | None:
    """What is wrong with a checkpoint in which `found` are the files that its manifest lists; None if nothing is."""
    if expected is None:
        return "it has no manifest that can be read" if checkpoint.is_dir() else "it is not there"
    wrong = [
        f"{name} is missing or cannot be read"
        if "error" in found.get(name, {"error": ""})
        else f"{name} has {found[name]['bytes']} bytes, not {entry['bytes']}"
        if found[name]["bytes"] != entry["bytes"]
        else f"{name} does not hold what was written"
        for name, entry in expected.items()
        if found.get(name) != entry
    ]
    if not wrong and (fault := _fault(checkpoint, expected)):
        wrong = [fault]
    rest = [f"and {len(wrong) - FAULTS_SAID} more"] if len(wrong) > FAULTS_SAID else []
    return printable("; ".join(wrong[:FAULTS_SAID] + rest)) or None


def _fault(checkpoint: Path, expected: dict[str, Entry]) -> str | None:
    """What keeps a checkpoint, whose files are those of its manifest, from being a whole one."""
    try:
        state = read_state(checkpoint)
    except (OSError, ValueError) as error:
        return f"{STATE} cannot be read: {error}"
    if is_foreign(state):
        return None  # of another version: what was written, whatever that is
    engine, run = state["engine"], state.get("run")
    if not isinstance(engine, dict) or type(engine.get("format")) is not int:
        return f"{STATE} does not say of which format it is"
    if not isinstance(run, dict) or (fault := progress_fault(run)):
        return f"{STATE} does not say how far the run had come: {fault if isinstance(run, dict) else 'it has no such part'}"
    named = re.fullmatch(r"step-(\d+)", checkpoint.name)
    if named and int(named[1]) != run["step"]:
        return f"it is that of step {run['step']}"
    scale = engine.get("loss_scale")
    if not is_count(engine.get("updates")) or not isinstance(scale, dict) or not all(map(_is_number, scale.values())):
        return f"{STATE} does not say how the engine stood"
    shards = sorted(name for name in expected if SHARD.fullmatch(name))
    return _missing(engine, shards) or stretch_fault([checkpoint / name for name in shards], engine.get("elements"))


def _missing(engine: dict[str, Any], shards: list[str]) -> str | None:
    """Which of the files that the ranks wrote are not in the manifest, as far as the state says who wrote what."""
    files = engine.get("files")
    if files is None:  # a checkpoint of before they were noted
        return None if shards else "it has no file of any rank"
    if not isinstance(files, list) or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in files) or not files:
        return f"{STATE} does not say what the ranks wrote"
    ranks = engine.get("world_size", 0)
    if not is_count(ranks) or any(int(name.split("-")[1]) >= ranks for name in files):
        return f"{STATE} does not say how many ranks there were"
    if lost := sorted(set(files) - set(shards)):
        return f"the manifest lacks {', '.join(lost[:FAULTS_SAID])}, which the ranks wrote"
    if more := sorted(set(shards) - set(files)):
        return f"{', '.join(more[:FAULTS_SAID])} was written by none of its ranks"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_foreign(state: dict[str, Any]) -> bool:
    """Whether a state was written by another version of this program."""
    engine = state.get("engine", {})
    return isinstance(engine, dict) and type(engine.get("format", 0)) is int and engine.get("format") != FORMAT


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The engine's numbers and the run's own state in a checkpoint.

    Raises:
        OSError, ValueError: if it is not one.
    """
    state = load_json(checkpoint / STATE)
    if not isinstance(state, dict):
        raise ValueError("it is no JSON object")
    return state
