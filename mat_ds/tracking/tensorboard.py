"""Writes a run's numbers as TensorBoard reads them. The files are simple enough not to need its package.

A file is a sequence of records (length, checksum of the length, data, checksum of the data); the data of each is a protocol
buffer `Event` with a time, a step and scalars.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path

from mat_ds.storage.disk import write_bytes
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.replay import Moment, folder_in, moments

FOLDER = "tensorboard"
# TensorBoard reads every file whose name contains `tfevents`.
FILE = "events.out.tfevents.mat_ds"
LARGEST_FLOAT = (2 - 2**-23) * 2.0**127
# CRC-32C: Castagnoli's polynomial, with reversed bits.
POLYNOMIAL = 0x82F63B78


def write_tensorboard(run: RunDirectory) -> tuple[int, Path]:
    """Writes or replaces the TensorBoard file of a run; returns its number of points, and its folder, `tensorboard/`.

    Raises:
        UserError: if the events cannot be read, or the folder leads out of the run.
        SaveError: if the disk refuses the file.
    """
    folder, found = folder_in(run, FOLDER), list(moments(run))
    folder.mkdir(exist_ok=True)
    write_bytes(folder / FILE, event_file(found))
    return sum(len(moment.metrics) for moment in found), folder


def event_file(found: Iterable[Moment]) -> bytes:
    """The contents of a TensorBoard file."""
    found = list(found)
    began = found[0].time if found else 0.0
    version = _double(1, began) + _text(3, b"brain.Event:2")
    return b"".join(map(_record, (version, *map(_event, found))))


def _event(moment: Moment) -> bytes:
    values = (_text(1, name.encode()) + _single(2, number) for name, number in moment.metrics.items())
    summary = b"".join(_text(1, value) for value in values)
    return _double(1, moment.time) + _tag(2, 0) + _varint(moment.step) + _text(5, summary)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


# Fields of a protocol buffer.


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _text(field: int, data: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(data)) + data


def _double(field: int, number: float) -> bytes:
    return _tag(field, 1) + struct.pack("<d", number)


def _single(field: int, number: float) -> bytes:
    number = math.copysign(math.inf, number) if abs(number) > LARGEST_FLOAT else number
    return _tag(field, 5) + struct.pack("<f", number)


# The checksum.


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = tuple(map(_table_entry, range(256)))


def crc32c(data: bytes) -> int:
    """The CRC-32C of some bytes."""
    rest = 0xFFFFFFFF
    for byte in data:
        rest = TABLE[(rest ^ byte) & 0xFF] ^ rest >> 8
    return rest ^ 0xFFFFFFFF


def _masked(data: bytes) -> int:
    """The checksum as it is stored: rotated and shifted, because data may itself hold checksums."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
