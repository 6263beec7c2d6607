"""Reads Parquet files and `save_to_disk` folders: decodes only the columns that a task needs, and limits the memory that the
rows of a small file may take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.arrow import open_stream
from mat_ds.tasks.decoding import batch_rows, holds_mappings, holds_probabilities, is_list
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.rows import LocatedRow, lacking_columns, naming, repeated
from mat_ds.tasks.sources import INFO, SAVED, open_data, read_saved_description, saved_files
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import pyarrow

BATCH = 10_000
# What the `datasets` library calls lists.
LISTS = ("List", "LargeList", "Sequence")
# Memory that the rows of a file may take: ROW_BYTES per row plus one byte per character (entries of lists: see decoding.py), up
# to ALLOWED_BYTES plus ALLOWED_PER_BYTE per byte of the file. Text compresses three or four times; more than ten times is one
# text repeated.
ROW_BYTES, ALLOWED_BYTES, ALLOWED_PER_BYTE = 200, 64 * 2**20, 50


@dataclass(frozen=True)
class Columns:
    """The columns that a task reads from a file.

    Attributes:
        spec: the task.
        labelled: whether the label column is read.
        theirs: maps the task's column names to the file's, where they differ.
    """

    spec: TaskSpec
    labelled: bool
    theirs: Mapping[str, str] = field(default_factory=dict)

    def names(self, schema: pyarrow.Schema, where: str) -> dict[str, str]:
        """Maps the task's column names to the file's, in the task's order.

        Raises:
            UserError: if a column is missing, repeated, or holds neither texts nor labels.
        """
        if twice := repeated(schema.names):
            raise UserError(Problem(where, *twice))
        texts = kind_of(self.spec).columns
        wanted = (*texts, *(self.spec.marks if self.labelled else ()))
        names = {ours: self.theirs.get(ours, ours) for ours in wanted}
        names = {ours: theirs if theirs in schema.names else ours for ours, theirs in names.items()}
        if missing := [ours for ours, theirs in names.items() if theirs not in schema.names]:
            raise UserError(self.lacking(where, schema.names, missing))
        if self.spec.group in schema.names:
            names.setdefault(str(self.spec.group), str(self.spec.group))
        for ours, theirs in names.items():
            kind, text = schema.field(theirs).type, ours in texts
            soft = ours == self.spec.label and kind_of(self.spec).soft_labels and holds_probabilities(kind)
            mapped = ours in kind_of(self.spec).mapped_columns and holds_mappings(kind)
            if not (soft or mapped or self.fits(kind, text, ours)):
                what = ("lists of " if self.listed(ours) else "") + ("texts" if text else "labels")
                reason = f"the column holds {str(kind)[:80]}, not {what}"
                raise UserError(Problem(where, theirs, reason, "name the columns that hold the task's texts and its label"))
        return names

    def fits(self, kind: pyarrow.DataType, text: bool, column: str) -> bool:
        """Whether values of a type can be in a column of the task; `text` says whether it is one of texts."""
        return may_hold(kind, text, self.listed(column))

    def listed(self, column: str) -> bool:
        """Whether a column of the task holds lists."""
        return column in kind_of(self.spec).list_columns

    def label_names(self, names: Mapping[str, str], features: Any, where: str) -> list[str] | None:
        """The class names of a label column that numbers classes in an order of its own; None if its values need no names.

        Args:
            names: name of each column in the file, by its name in the task.
            features: the `datasets` library's description of the columns.
            where: name of the source in messages.
        """
        described = features.get(names.get(self.spec.label, "")) if isinstance(features, dict) and self.labelled else None
        if isinstance(described, dict) and described.get("_type") in LISTS:
            described = described.get("feature")
        elif isinstance(described, list) and len(described) == 1:  # as older versions write it
            described = described[0]
        if not isinstance(described, dict) or described.get("_type") != "ClassLabel":
            return None
        found = described.get("names")
        if isinstance(found, dict):
            found = [found[key] for key in sorted(found, key=lambda key: (len(key), key))]
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise UserError(Problem(where, None, "has a label column whose classes have no names", "save the data again"))
        return self.settle(found, where)

    def lacking(self, where: str, there: Iterable[object], missing: list[str]) -> Problem:
        """The problem that a file lacks columns."""
        return lacking_columns(where, there, missing, naming(self.spec, missing))

    def settle(self, found: list[str], where: str) -> list[str] | None:
        """Labels for a column that numbers its classes in its own order; None if the numbers are the labels."""
        return kind_of(self.spec).column_labels(found, where)


def may_hold(kind: pyarrow.DataType, text: bool, listed: bool) -> bool:
    """Whether values of a type can be texts, or labels if `text` is false; if `listed`, lists of them, or texts with one."""
    from pyarrow import types

    if listed and is_list(kind):
        return may_hold(kind.value_type, text, False)
    kind = kind.value_type if types.is_dictionary(kind) else kind
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    fits = number and not text and not listed
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or fits)


class _Allowance:
    """The memory that the rows of a file may still take."""

    def __init__(self, where: str, size: int):
        self._where, self._size = where, size
        self._allowed = self._left = ALLOWED_BYTES + ALLOWED_PER_BYTE * size

    def check(self, rows: int, characters: int = 0) -> None:
        """Raises `UserError` if this is more than is left."""
        if rows * ROW_BYTES + characters > self._left:
            raise UserError(
                Problem(
                    self._where,
                    f"{self._size:,} bytes",
                    f"decompresses to more than {self._allowed:,} bytes of texts and rows",
                    "if this is intended, write the rows as JSON lines",
                )
            )

    def take(self, rows: int, characters: int) -> None:
        self.check(rows, characters)
        self._left -= rows * ROW_BYTES + characters


def _parquet_rows(path: Path, columns: Columns) -> Iterator[LocatedRow]:
    import pyarrow.parquet

    with open_data(path) as file:
        allowance = _Allowance(str(path), path.stat().st_size)
        schema = pyarrow.parquet.read_schema(file)
        file.seek(0)
        names = columns.names(schema, str(path))
        texts = [name for name in names.values() if pyarrow.types.is_string(schema.field(name).type)]
        lists = [name for name in names.values() if is_list(schema.field(name).type)]
        if lists:  # of texts in lists, the name is the path to them
            leaves = pyarrow.parquet.ParquetFile(file, pre_buffer=False).schema
            paths = [leaves.column(i).path for i in range(len(leaves)) if leaves.column(i).physical_type == "BYTE_ARRAY"]
            texts += [path for path in paths for name in lists if path.startswith(f"{name}.")]
        file.seek(0)
        found = pyarrow.parquet.ParquetFile(file, read_dictionary=texts, pre_buffer=False)
        features = _features(schema.metadata or found.metadata.metadata, str(path))
        labels = columns.label_names(names, features, str(path))
        # The sizes of all columns: pyarrow crashes the process if asked for one column whose metadata is damaged.
        unfolded = sum(found.metadata.row_group(i).total_byte_size for i in range(found.metadata.num_row_groups))
        allowance.check(found.metadata.num_rows, unfolded)
        number = 0
        for batch in found.iter_batches(batch_size=BATCH, columns=list(names.values())):
            for row in batch_rows(batch, names, columns.spec.label, labels, allowance.take):
                yield f"{path} row {number}", row
                number += 1


def _saved_rows(folder: Path, columns: Columns) -> Iterator[LocatedRow]:
    features = read_saved_description(folder / INFO, "features", dict)
    number = 0
    for path in saved_files(folder):
        allowance = _Allowance(str(path), path.stat().st_size)
        schema, batches = open_stream(path)
        names = columns.names(schema, str(path))
        labels = columns.label_names(names, features, str(path))
        for batch in batches(list(names.values())):
            allowance.check(batch.num_rows)
            for start in range(0, batch.num_rows, BATCH):
                for row in batch_rows(batch.slice(start, BATCH), names, columns.spec.label, labels, allowance.take):
                    yield f"{folder} row {number}", row
                    number += 1


def _features(metadata: Mapping[bytes, bytes] | None, where: str) -> Any:
    """The `datasets` library's description of the columns; None if it did not write the table."""
    if not metadata or b"huggingface" not in metadata:
        return None
    try:
        return json.loads(metadata[b"huggingface"])["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(
            Problem(where, None, "has a damaged description of its columns (metadata 'huggingface')", "write the file again")
        ) from None


READERS: dict[str, Callable[[Path, Columns], Iterator[LocatedRow]]] = {".parquet": _parquet_rows, SAVED: _saved_rows}


def read_columns(path: Path, suffix: str, columns: Columns) -> Iterator[LocatedRow]:
    """Yields the rows of a Parquet file or a `save_to_disk` folder; raises `UserError` if it cannot be read."""
    try:
        yield from READERS[suffix](path, columns)
    except UserError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in pyarrow
        reason = f"cannot be read: {error or type(error).__name__}"
        raise UserError(Problem(str(path), None, reason, "write the file again")) from None
