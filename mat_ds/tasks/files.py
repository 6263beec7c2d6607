"""Rows of a split, from local files, a `save_to_disk` folder, the hub or a built-in generator."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.registry import FOLDERS
from mat_ds.tasks.spec import TaskSpec

# (what a message calls the row, the row)
LocatedRow = tuple[str, dict[str, Any]]


def read_split(spec: TaskSpec, split: str, data_path: str | None) -> Iterator[LocatedRow] | None:
    """The rows of one split in file order, each with the place a message can point to.

    Args:
        spec: the task.
        split: name of the split, as on the hub.
        data_path: `data.path` of the run; None: the hub, or the task's own generator.

    Returns:
        None where the source exists and holds no such split.

    Raises:
        UserError: if the source itself is missing, unreachable or unreadable.
    """
    if spec.generate:
        if data_path is not None:
            raise UserError(Problem("data.path", data_path, f"task {spec.name!r} makes its own data",
                                    "leave data.path out, or name the task of your files"))  # fmt: skip
        return ((f"{spec.name}/{split} row {i}", row) for i, row in enumerate(spec.generate(split)))
    if data_path is None:
        return _from_hub(spec, split)
    root = Path(data_path)
    if not root.is_dir():
        raise UserError(Problem("data.path", data_path, "is no folder", "pass the folder that holds "
                                f"{spec.name}/<split>.jsonl, or leave data.path out to use the hub"))  # fmt: skip
    folder = root / FOLDERS.get(spec.name, spec.name)
    for saved in (folder, root):
        if (saved / "dataset_dict.json").exists():
            return _from_saved(saved, spec, split)
    if not folder.is_dir():
        raise UserError(Problem("data.path", data_path, f"holds no folder {folder.name!r}",
                                f"put the files of the task at {folder}/<split>.jsonl"))  # fmt: skip
    for suffix, reader in READERS.items():
        if (path := folder / f"{split}{suffix}").exists():
            return _located(path, reader)
    return None


def _located(path: Path, reader: Callable[[Path], Iterator[LocatedRow]]) -> Iterator[LocatedRow]:
    """The rows of a file; what its reader cannot make sense of is the user's to know, with the file's name."""
    try:
        yield from reader(path)
    except (OSError, ValueError, csv.Error) as error:  # UnicodeDecodeError and pyarrow's errors are ValueErrors
        if isinstance(error, UserError):
            raise
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", "mend the file (UTF-8 text)")) from None


def _read_jsonl(path: Path) -> Iterator[LocatedRow]:
    # Only \n ends a line: texts may hold U+2028 and other characters that str.splitlines takes for an end.
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(Problem(f"{path}:{number}", line[:80], f"is not JSON: {error.msg}",
                                        "mend or delete the line")) from None  # fmt: skip
            if not isinstance(row, dict):
                raise UserError(Problem(f"{path}:{number}", line[:80], "is no JSON object", 'write {"column": value}'))
            yield f"{path}:{number}", row


def _read_delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Iterator[LocatedRow]]:
    def read(path: Path) -> Iterator[LocatedRow]:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, quoting=quoting)
            for row in reader:
                yield f"{path}:{reader.line_num}", row

    return read


def _read_parquet(path: Path) -> Iterator[LocatedRow]:
    import pyarrow.parquet

    for i, row in enumerate(pyarrow.parquet.read_table(path).to_pylist()):
        yield f"{path} row {i}", row


# GLUE's own tsv files do not quote.
READERS: dict[str, Callable[[Path], Iterator[LocatedRow]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_delimited(",", csv.QUOTE_MINIMAL),
    ".tsv": _read_delimited("\t", csv.QUOTE_NONE),
    ".parquet": _read_parquet,
}


def _from_saved(folder: Path, spec: TaskSpec, split: str) -> Iterator[LocatedRow] | None:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder can fail anywhere in datasets and pyarrow
        raise UserError(Problem("data.path", str(folder), f"cannot be loaded: {error}", "save it again")) from None
    return _rows(f"{folder}/{split}", saved[split], spec) if split in saved else None


def _from_hub(spec: TaskSpec, split: str) -> Iterator[LocatedRow] | None:
    if spec.hub is None:
        raise UserError(Problem("data.path", None, f"task {spec.name!r} has no source on the hub",
                                f"pass data.path=<folder>, with the files at <folder>/{spec.name}/<split>.jsonl"))  # fmt: skip
    import datasets

    try:
        if split not in datasets.get_dataset_split_names(spec.hub, spec.hub_config):
            return None
        found = datasets.load_dataset(spec.hub, spec.hub_config, split=split)
    except Exception as error:  # offline mode, name resolution, proxies and missing caches each raise a class of their own
        raise UserError(Problem(
            "data.path", None, f"{spec.hub} cannot be had from the hub ({type(error).__name__}: {error})",
            f"where the hub can be reached, run datasets.load_dataset({spec.hub!r}, {spec.hub_config!r})"
            f".save_to_disk('<folder>/{FOLDERS.get(spec.name, spec.name)}'), bring the folder here and pass "
            "data.path=<folder>",
        )) from None  # fmt: skip
    return _rows(f"{spec.hub}/{split}", found, spec)


def _rows(where: str, found: Any, spec: TaskSpec) -> Iterator[LocatedRow]:
    """The rows of a dataset, its columns named as the task names them."""
    for ours, theirs in spec.hub_columns.items():
        if theirs in found.column_names:
            found = found.rename_column(theirs, ours)
    return ((f"{where} row {i}", row) for i, row in enumerate(found))
