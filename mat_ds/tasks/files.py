"""Rows of a split, from local files, a `save_to_disk` folder, the hub or a built-in generator."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.registry import FOLDERS
from mat_ds.tasks.rows import CORRUPT, ENCODING, LONG, LONGEST_TEXT, BadRow, excerpt, is_utf8
from mat_ds.tasks.spec import TaskSpec

# (what a message calls the row, the row)
LocatedRow = tuple[str, dict[str, Any] | BadRow]

STDIN = Path("-")
# The column of a file that holds nothing but texts.
TEXT = "text"


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


def read_lines(path: Path, suffix: str) -> Iterator[LocatedRow]:
    """The rows of a file, or of standard input (`-`), one after the other.

    Args:
        path: the file.
        suffix: `.jsonl`, `.csv`, `.tsv`, or `.txt`: a text in each line.
    """
    return _located(path, _read_text if suffix == ".txt" else READERS[suffix])


def _located(path: Path, reader: Callable[[Path], Iterator[LocatedRow]]) -> Iterator[LocatedRow]:
    """The rows of a file; one that cannot be read as a whole is the user's to know, with its name."""
    try:
        yield from reader(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        if isinstance(error, UserError):
            raise
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", "mend the file")) from None


def _open(path: Path, newline: str) -> Any:
    """A text file whose undecodable bytes arrive as lone surrogates: one of them must not hide the other lines. A byte order
    mark is no part of the text."""
    piped = path == STDIN
    return open(0 if piped else path, encoding="utf-8-sig", errors="surrogateescape", newline=newline, closefd=not piped)


def _read_text(path: Path) -> Iterator[LocatedRow]:
    with _open(path, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.removesuffix("\n").removesuffix("\r")
            yield f"{path}:{number}", {TEXT: text} if is_utf8(line) else BadRow(ENCODING, excerpt(line), "is not UTF-8 text")


def _read_jsonl(path: Path) -> Iterator[LocatedRow]:
    # Only \n ends a line: texts may hold U+2028 and other characters that str.splitlines takes for an end.
    with _open(path, newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", _from_json(line)


def _from_json(line: str) -> dict[str, Any] | BadRow:
    if not is_utf8(line):
        return BadRow(ENCODING, excerpt(line), "is not UTF-8 text")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRow(CORRUPT, excerpt(line), f"is not JSON: {getattr(error, 'msg', error)}")
    return row if isinstance(row, dict) else BadRow(CORRUPT, excerpt(line), "is no JSON object")


def _read_delimited(delimiter: str, quoting: Literal[0, 3]) -> Callable[[Path], Iterator[LocatedRow]]:
    def read(path: Path) -> Iterator[LocatedRow]:
        with _open(path, newline="") as lines:
            records = _records(lines, delimiter, quoting)
            number, header = next(records, (1, []))
            if isinstance(header, BadRow):
                raise UserError(Problem(f"{path}:{number}", header.value, f"the header {header.reason}", "mend the file"))
            for number, record in records:
                if isinstance(record, list) and len(record) != len(header):
                    reason = f"has {len(record)} columns, the header {len(header)}"
                    record = BadRow(CORRUPT, excerpt(delimiter.join(record)), reason)
                yield f"{path}:{number}", record if isinstance(record, BadRow) else dict(zip(header, record, strict=True))

    return read


def _records(lines: Iterator[str], delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str] | BadRow]]:
    """The records of a delimited file, each with the number of the line it begins in; empty lines are none.

    A quote that is never closed, or closed in the middle of a field, would swallow the lines behind it. They are read again.
    """
    number, taken, again = 1, list[str](), deque[str]()

    def feed() -> Iterator[str]:
        while (line := again.popleft() if again else next(lines, None)) is not None:
            taken.append(line)
            yield line

    reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        taken.clear()
        record: list[str] | BadRow | None
        try:
            record = next(reader, None)
        except csv.Error as error:
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv.reader(feed(), delimiter=delimiter, quoting=quoting, strict=True)
            too_long = len(taken[0]) > LONGEST_TEXT
            reason = f"has more than {LONGEST_TEXT:,} characters" if too_long else f"is no record: {error}"
            record = BadRow(LONG if too_long else CORRUPT, excerpt(taken[0]), reason)
        if record is None:
            return
        if not all(is_utf8(line) for line in taken):
            record = BadRow(ENCODING, excerpt("".join(taken)), "is not UTF-8 text")
        if record:
            yield number, record
        number += len(taken)


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
            "where the hub can be reached, run `mat-ds prepare <folder>` with the options of this run, bring the folder here "
            "and pass data.path=<folder>",
        )) from None  # fmt: skip
    return _rows(f"{spec.hub}/{split}", found, spec)


def _rows(where: str, found: Any, spec: TaskSpec) -> Iterator[LocatedRow]:
    """The rows of a dataset, its columns named as the task names them."""
    for ours, theirs in spec.hub_columns.items():
        if theirs in found.column_names:
            found = found.rename_column(theirs, ours)
    return ((f"{where} row {i}", row) for i, row in enumerate(found))
