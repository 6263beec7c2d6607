"""Reads Arrow files written by others, memory-mapped."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.sources import open_data

if TYPE_CHECKING:
    import pyarrow

# Field numbers in Arrow's flatbuffers: Message.header, RecordBatch.compression, DictionaryBatch.data.
HEADER, COMPRESSION, DICTIONARY_BATCH = 2, 3, 1


def open_stream(path: Path) -> tuple[pyarrow.Schema, Callable[[list[str]], Iterator[pyarrow.RecordBatch]]]:
    """Opens an Arrow stream file, memory-mapped.

    Returns:
        Its schema, and a function that yields validated batches with the given columns only.

    Raises:
        UserError: if the file is compressed, since nothing then bounds the size it decompresses to.
    """
    import pyarrow

    open_data(path).close()
    source = pyarrow.memory_map(str(path))
    if any(map(_is_compressed, pyarrow.ipc.MessageReader.open_stream(source))):
        raise UserError(Problem(str(path), None, "is a compressed Arrow file", "save the data again with save_to_disk"))
    source.seek(0)
    schema = pyarrow.ipc.open_stream(source).schema

    def batches(names: list[str]) -> Iterator[pyarrow.RecordBatch]:
        source.seek(0)
        chosen = sorted(schema.get_field_index(name) for name in names)
        for batch in pyarrow.ipc.open_stream(source, options=pyarrow.ipc.IpcReadOptions(included_fields=chosen)):
            batch.validate(full=True)
            yield batch

    return schema, batches


def _is_compressed(message: Any) -> bool:
    """Whether a record batch or dictionary message has compressed buffers. Parses the message's flatbuffer, because pyarrow
    only tells after decompressing them."""
    data = message.metadata.to_pybytes()

    def field(table: int, slot: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        place = 4 + 2 * slot
        known = place < struct.unpack_from("<H", data, vtable)[0]
        offset = struct.unpack_from("<H", data, vtable + place)[0] if known else 0
        return table + offset if offset else 0

    def follow(table: int, slot: int) -> int:
        place = field(table, slot)
        return place + struct.unpack_from("<I", data, place)[0] if place else 0

    if message.type not in ("record batch", "dictionary"):
        return False
    batch = follow(struct.unpack_from("<I", data, 0)[0], HEADER)
    if batch and message.type == "dictionary":
        batch = follow(batch, DICTIONARY_BATCH)
    return bool(batch and field(batch, COMPRESSION))
