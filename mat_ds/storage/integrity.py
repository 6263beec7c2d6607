"""Checks a checkpoint against its manifest and its own state; used by resume, `mat-ds verify` and `mat-ds export`.

Nothing in the folder is trusted before it has been checked. Any deviation from what this program writes is reported as damage
in one sentence, never raised as an error.
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
# Version of the format of `state.json` and the shards. Format 1 was DeepSpeed's own shards (mat_ds 0.1.0).
FORMAT = 2
SHARD = re.compile(r"rank-\d{5,9}-\d{1,9}\.safetensors", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
# A report lists at most this many faults.
FAULTS_SAID = 10

Entry = dict[str, Any]


def entry_of(file: Path) -> Entry:
    """Size and SHA-256 of a file, after flushing it to disk; or the error if it cannot be read."""
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
    """`entry_of` each file; an error for files behind a link."""
    found = {}
    for name in names:
        between = [folder / parent for parent in PurePosixPath(name).parents if parent.name]
        found[name] = {"error": "a link"} if any(map(os.path.islink, between)) else entry_of(folder / name)
    return found


def files_below(folder: Path) -> list[str]:
    """All regular files below `folder` except its manifest, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(name for path in found if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def read_manifest(checkpoint: Path) -> dict[str, Entry] | None:
    """The manifest as file name -> size and SHA-256; None if it is missing, unreadable or malformed."""
    try:
        manifest = load_json(checkpoint / MANIFEST)
    except (OSError, ValueError):
        return None
    right = isinstance(manifest, dict) and STATE in manifest and all(map(_is_listed, manifest.items()))
    return manifest if right else None


def _is_listed(item: tuple[str, Any]) -> bool:
    """Whether a manifest item is a relative path inside the folder with a valid size and digest."""
    name, entry = item
    path = PurePosixPath(name)
    inside = name.isprintable() and path.as_posix() == name and not path.is_absolute() and ".." not in path.parts
    known = isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"} and is_count(entry["bytes"])
    return inside and name not in ("", ".", MANIFEST) and known and SHA256.fullmatch(str(entry["sha256"])) is not None


def is_count(value: Any) -> bool:
    """Whether a value from JSON is a non-negative 64-bit integer."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def verify_checkpoint(checkpoint: Path) -> str | None:
    """Reads every byte of a checkpoint. Returns what is wrong with it, or None."""
    expected = read_manifest(checkpoint)
    return checkpoint_damage(checkpoint, expected, entries_below(checkpoint, expected or ()))


def checkpoint_damage(checkpoint: Path, expected: dict[str, Entry] | None, found: dict[str, Entry]) -> str | None:
    """What is wrong with a checkpoint, or None.

    Args:
        expected: its manifest.
        found: size and digest of the files that the manifest lists.
    """
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
    if not wrong and (fault := _content_fault(checkpoint, expected)):
        wrong = [fault]
    rest = [f"and {len(wrong) - FAULTS_SAID} more"] if len(wrong) > FAULTS_SAID else []
    return printable("; ".join(wrong[:FAULTS_SAID] + rest)) or None


def _content_fault(checkpoint: Path, expected: dict[str, Entry]) -> str | None:
    """What is wrong inside a checkpoint whose files match its manifest; None if nothing is."""
    try:
        state = read_state(checkpoint)
    except (OSError, ValueError) as error:
        return f"{STATE} cannot be read: {error}"
    if is_foreign(state):
        return None  # another version's format: only the files can be checked
    engine, run = state["engine"], state.get("run")
    if not isinstance(engine, dict) or type(engine.get("format")) is not int:
        return f"{STATE} does not name its format"
    if not isinstance(run, dict) or (fault := progress_fault(run)):
        return f"{STATE} does not hold the run's progress: {fault if isinstance(run, dict) else 'it has no part `run`'}"
    named = re.fullmatch(r"step-(\d+)", checkpoint.name)
    if named and int(named[1]) != run.get("step"):
        return f"it belongs to step {run.get('step')}"
    scale = engine.get("loss_scale")
    if not is_count(engine.get("updates")) or not isinstance(scale, dict) or not all(map(_is_number, scale.values())):
        return f"{STATE} does not hold the state of the engine"
    shards = sorted(name for name in expected if SHARD.fullmatch(name))
    return _missing_shards(engine, shards) or stretch_fault([checkpoint / name for name in shards], engine.get("elements"))


def _missing_shards(engine: dict[str, Any], shards: list[str]) -> str | None:
    """Which files that the ranks wrote are not in the manifest, as far as the state lists them; None if none is missing."""
    files = engine.get("files")
    if files is None:  # written by a version that did not list them
        return None if shards else "it has no files of ranks"
    if not isinstance(files, list) or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in files) or not files:
        return f"{STATE} does not list the files of the ranks"
    ranks = engine.get("world_size", 0)
    if not is_count(ranks) or any(int(name.split("-")[1]) >= ranks for name in files):
        return f"{STATE} does not hold the number of ranks"
    if lost := sorted(set(files) - set(shards)):
        return f"the manifest lacks {', '.join(lost[:FAULTS_SAID])}, which the ranks wrote"
    if more := sorted(set(shards) - set(files)):
        return f"{', '.join(more[:FAULTS_SAID])} does not belong to any of its ranks"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_foreign(state: dict[str, Any]) -> bool:
    """Whether another version of this program wrote the state."""
    engine = state.get("engine", {})
    return isinstance(engine, dict) and type(engine.get("format", 0)) is int and engine.get("format") != FORMAT


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state of engine and run in a checkpoint.

    Raises:
        OSError, ValueError: if it cannot be read, or is not a JSON object.
    """
    state = load_json(checkpoint / STATE)
    if not isinstance(state, dict):
        raise ValueError("it is not a JSON object")
    return state
