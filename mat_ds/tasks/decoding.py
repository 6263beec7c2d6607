"""Decodes the columns of Arrow tables to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Bytes of an entry of a list besides its characters: a reference, and the text, which is one for all equal ones of a batch.
ENTRY_BYTES, TEXT_BYTES = 8, 60
Take = Callable[[int, int], None]


def is_list(kind: Any) -> bool:
    """Whether values of an Arrow type are lists."""
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def holds_probabilities(kind: Any) -> bool:
    """Whether values of an Arrow type can be a probability for each of several labels: lists of floats, or floats by name."""
    from pyarrow import types

    parts = [kind.value_type] if is_list(kind) else [field.type for field in kind] if types.is_struct(kind) else []
    return bool(parts) and all(map(types.is_floating, parts))


def holds_mappings(kind: Any) -> bool:
    """Whether values of an Arrow type are mappings, or lists of them."""
    from pyarrow import types

    return bool(types.is_struct(kind.value_type if is_list(kind) else kind))


def batch_rows(
    batch: Any,
    names: Mapping[str, str],
    label: str,
    labels: list[str] | None,
    take: Take = lambda rows, characters: None,
) -> Iterator[dict[str, Any]]:
    """Yields the rows of a batch under the task's column names; class numbers become class names if `labels` is given.

    Args:
        names: maps the task's column names to the batch's.
        label: the task's name of the label column.
        labels: the name of each class number.
        take: called with the row count and characters of each row, before the row is decoded any further.
    """
    for values in zip(*(_decoded(batch.column(theirs), take) for theirs in names.values()), strict=True):
        row = dict(zip(names, values, strict=True))
        take(1, sum(len(value) for value in row.values() if isinstance(value, str)))
        if labels is not None:
            value = row.get(label)
            row[label] = (
                [_class_named(each, labels) for each in value] if isinstance(value, list) else _class_named(value, labels)
            )
        yield row


def _class_named(value: Any, labels: list[str]) -> Any:
    """The class name of a class number; -1 says that there is none."""
    if not isinstance(value, int) or value == -1:
        return value
    return labels[value] if 0 <= value < len(labels) else f"class {value} of {len(labels)}"


def _decoded(column: Any, take: Take) -> Iterator[Any]:
    """Yields the values of a column; a text that many rows share is decoded only once."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        yield from _shared(column, {})
    elif holds_mappings(column.type):
        yield from _mappings(column, take)
    elif is_list(column.type):
        yield from _lists(column, take)
    else:
        yield from map(_decode, column)


def _shared(column: Any, known: dict[int | None, Any]) -> Iterator[Any]:
    """Yields the values of a dictionary column; `known` are those that have been decoded, by index."""
    known[None] = None
    for scalar in column.indices:
        if (index := scalar.as_py()) not in known:
            known[index] = _decode(column.dictionary[index])
        yield known[index]


def _lists(column: Any, take: Take) -> Iterator[list[Any] | None]:
    """Yields the lists of a column, whose equal texts are one text in memory."""
    import pyarrow

    known: dict[int | None, Any] = {}
    texts: dict[str, str] = {}
    for scalar in column:
        entries = scalar.values
        if entries is None:
            yield None
            continue
        take(0, ENTRY_BYTES * len(entries))
        found = []
        for value in _shared(entries, known) if pyarrow.types.is_dictionary(entries.type) else map(_decode, entries):
            if isinstance(value, str) and value not in texts:
                take(0, TEXT_BYTES + len(value))
                texts[value] = value
            found.append(texts[value] if isinstance(value, str) else value)
        yield found


def _mappings(column: Any, take: Take) -> Iterator[Any]:
    """Yields the mappings of a column, or its lists of them."""
    for scalar in column:
        found = scalar.as_py()
        take(0, sum(_sizes(found)))
        yield found


def _sizes(value: Any) -> Iterator[int]:
    """The bytes of a value and of all in it, roughly."""
    yield ENTRY_BYTES + (TEXT_BYTES + len(value) if isinstance(value, str) else 0)
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _sizes(inner)


def _decode(scalar: Any) -> Any:
    """Decodes undecodable bytes to surrogates, so that only the row that contains them is bad, not the file."""
    import pyarrow

    text = isinstance(scalar, pyarrow.StringScalar) and scalar.is_valid
    return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape") if text else scalar.as_py()
