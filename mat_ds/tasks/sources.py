"""Finds the files of a split: one file, its shards, or a `save_to_disk` folder. More than one of these is an error."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from mat_ds.config.names import is_name
from mat_ds.errors import Problem, UserError, first_names
from mat_ds.storage.reading import IrregularError, open_regular, read_json

SAVED = ""  # used instead of a file suffix for `save_to_disk` folders
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".conll")
# Shard names as on the hub: train-00000-of-00002.parquet, optionally with a digest at the end.
SHARD = re.compile(r"-(\d{5,9})-of-(\d{5,9})(-[0-9a-f]+)?")
STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"
SHOWN = 10
AGAIN = "save the data again"


@dataclass(frozen=True)
class Source:
    """The files of a split.

    Attributes:
        name: used in messages.
        suffix: of the files; `SAVED` for a `save_to_disk` folder.
        paths: the files in row order, or the saved folder.
    """

    name: str
    suffix: str
    paths: tuple[Path, ...]


def find_source(folder: Path, root: Path, split: str) -> Source | None:
    """The source of a split, or None if there is none.

    Args:
        folder: of the task.
        root: `data.path`; may be a folder that `DatasetDict.save_to_disk` wrote.

    Raises:
        UserError: if there are several, or a part of one is missing.
    """
    found = [*_saved(folder, split), *(_saved(root, split) if (root / DICT).exists() and root != folder else ())]
    if folder.is_dir():
        found += _files(folder, split)
    if len(found) > 1:
        names = ", ".join(source.name for source in found)
        raise UserError(Problem(f"{folder.name}/{split}", names, "each hold the whole split", "keep the one that is meant"))
    return found[0] if found else None


def _saved(folder: Path, split: str) -> Iterator[Source]:
    path = folder / split
    if (path / STATE).exists():
        yield Source(f"{path}/", SAVED, (path,))
    elif (folder / DICT).exists() and split in read_saved_description(folder / DICT, "splits", list):
        raise UserError(Problem(str(path), None, f"is listed in {folder / DICT}, but is not a saved split", "save it again"))


def _files(folder: Path, split: str) -> Iterator[Source]:
    shards: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        stem, suffix = os.path.splitext(path.name)
        suffix = suffix.lower()
        if suffix not in SUFFIXES or not stem.startswith(split):
            continue
        if stem == split:
            yield Source(str(path), suffix, (path,))
        elif part := SHARD.fullmatch(stem[len(split) :]):
            known = shards.setdefault((suffix, int(part[2])), {})
            if other := known.get(int(part[1])):
                raise UserError(Problem(str(path), None, f"is the same part of the split as {other.name}", "keep one of them"))
            known[int(part[1])] = path
    for (suffix, total), known in shards.items():
        missing = [f"{i:05d}" for i in islice((i for i in range(total) if i not in known), SHOWN)]
        if missing or len(known) != total:
            parts = f"part {', '.join(missing)}" if missing else f"part {max(known):05d} is one too many; a part"
            raise UserError(Problem(str(folder / f"{split}-*-of-{total:05d}{suffix}"), f"{len(known)} of {total} parts",
                                    f"{parts} is missing", "copy the folder again"))  # fmt: skip
        paths = tuple(known[i] for i in range(total))
        yield Source(str(folder / f"{split}-*-of-{total:05d}{suffix}"), suffix, paths)


def listing(folder: Path) -> str:
    """The contents of a folder for a message."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return f"{folder} holds {first_names(names, SHOWN) or 'nothing'}"


def open_data(path: Path) -> BinaryIO:
    """Opens a regular file for reading, also through a link; never blocks on a pipe, socket or device.

    Raises:
        UserError: if it is not a regular file.
        OSError: if it cannot be opened.
    """
    try:
        return open_regular(path, links=True)
    except IrregularError:
        fix = "put the file itself there, or a link to it"
        raise UserError(Problem(str(path), None, "is not a regular file", fix)) from None


def read_saved_description(path: Path, key: str, kind: type) -> Any:
    """The value of `key` in a small JSON file.

    Raises:
        UserError: if it is missing or of another type.
    """
    value = read_json(path, AGAIN, links=True).get(key)
    if not isinstance(value, kind):
        raise UserError(Problem(str(path), None, f"has no {kind.__name__} {key!r}", AGAIN))
    return value


def saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved split in row order; all must be inside its folder.

    Raises:
        UserError: if its description is damaged, or names a file outside the folder.
    """
    if read_json(folder / STATE, AGAIN, links=True).get("_indices_data_files"):
        raise UserError(Problem(str(folder / STATE), None, "stores the order of its rows in a separate file",
                                "save the data again, after flatten_indices()"))  # fmt: skip
    entries = read_saved_description(folder / STATE, "_data_files", list)
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    wrong = [name for name in names if not (isinstance(name, str) and is_name(name) and (folder / name).is_file())]
    if wrong:
        raise UserError(Problem(str(folder / STATE), wrong[0], "names a file that is not in its folder", AGAIN))
    return [folder / name for name in names if name]
