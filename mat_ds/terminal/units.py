"""Sizes and speeds as people write and read them."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Mapping

GIB = 2**30
# A GB of GPU memory means 2^30 bytes; a Gb of network speed means 10^9 bits.
MEMORY = {"MB": 2**20, "MiB": 2**20, "GB": GIB, "GiB": GIB}
LINK = {"Mb/s": 1e6 / 8, "Mbit/s": 1e6 / 8, "Gb/s": 1e9 / 8, "Gbit/s": 1e9 / 8, "MB/s": 1e6, "GB/s": 1e9}


def memory(text: str) -> int:
    """Parses `16GB`, `24GiB` or `81559MiB` into bytes; raises `ArgumentTypeError`."""
    return int(_quantity(text, MEMORY, "size", "16GB, 24GiB or 81559MiB"))


def link(text: str) -> float:
    """Parses `10Gb/s` (bits) or `1.25GB/s` (bytes) into bytes per second; raises `ArgumentTypeError`."""
    return _quantity(text, LINK, "speed", "10Gb/s (bits) or 1.25GB/s (bytes)")


def _quantity(text: str, units: Mapping[str, float], what: str, examples: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z/]+)", text)
    if not found or found[2] not in units or float(found[1]) == 0:
        raise ArgumentTypeError(f"{text!r} is not a {what}, like {examples}")
    return float(found[1]) * units[found[2]]


def whole(text: str) -> int:
    """Parses a whole number of at least one; raises `ArgumentTypeError`."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """Parses a number greater than zero; raises `ArgumentTypeError`."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return number


def gib(size: float) -> str:
    """Bytes in GiB, with one decimal."""
    return f"{size / GIB:.1f}"


def numbered(count: int, noun: str) -> str:
    """A number of things, such as `1 run` or `1,200 runs`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def scaled(number: float, unit: str) -> str:
    """A number with an SI prefix, such as `12.4 GB`."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {prefix}{unit}"
    return f"{number:.0f} {unit}"


def duration(seconds: float) -> str:
    """A time with a suitable unit, such as `2.5 min`."""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{1000 * seconds:.1f} ms"
