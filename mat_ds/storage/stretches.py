"""Reads the parameter slices in a checkpoint's files: keys are `kind:parameter:first element`, values fp32.

Of several chains of the parameters, those after the first have a kind of their own, `kind@chain`, where their values differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

# (kind, parameter, first element, the slice's values as a lazy safetensors slice)
Stretch = tuple[str, str, int, Any]


def of_chain(kind: str, chain: int) -> str:
    """The name in files of a kind of tensor of a chain, counted from 0."""
    return f"{kind}@{chain}" if chain else kind


def without_chain(kind: str) -> str:
    """The kind of tensor of any chain, from its name in files."""
    return kind.partition("@")[0]


def stretches(files: Iterable[Path], stack: ExitStack, framework: str = "np") -> Iterator[Stretch]:
    """Yields all slices in the files; reads only their headers.

    Args:
        files: the ranks' files.
        stack: keeps them open.
        framework: of the tensors, as in safetensors.

    Raises:
        ValueError: if a file holds anything else.
        SafetensorError: if a header is malformed.
    """
    for path in files:
        file = stack.enter_context(safe_open(path, framework=framework))
        for key in file.keys():  # noqa: SIM118
            kind, _, rest = key.partition(":")
            parameter, _, first = rest.rpartition(":")
            piece = file.get_slice(key)
            plain = first.isascii() and first.isdecimal() and len(first) < 19
            if not (kind and parameter and plain) or piece.get_dtype() != "F32" or len(piece.get_shape()) != 1:
                raise ValueError(f"{path.name} holds {key!r}, which is not a stretch of a parameter in fp32")
            yield kind, parameter, int(first), piece


def stretch_fault(files: list[Path], elements: object) -> str | None:
    """What is wrong with the ranks' files together; None if nothing is.

    Args:
        files: of all ranks.
        elements: number of elements of each trained parameter, from the state; None if unknown.
    """
    if elements is not None and not _are_counts(elements):
        return "its state does not hold the sizes of the parameters"
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    try:
        with ExitStack() as stack:
            for kind, parameter, first, piece in stretches(files, stack):
                found.setdefault(kind, {}).setdefault(parameter, []).append((first, piece.get_shape()[0]))
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    if not isinstance(elements, dict):
        return None
    for kind, parameters in found.items():
        names = sorted(elements.keys() | parameters.keys())
        if wrong := [name for name in names if not _tile(parameters.get(name, ()), elements.get(name))]:
            return f"its ranks did not write all {kind} values of {', '.join(wrong[:3])}"
    return None if found else "its ranks wrote nothing"


def _are_counts(elements: object) -> bool:
    return isinstance(elements, dict) and all(type(count) is int and count >= 0 for count in elements.values())


def _tile(pieces: Iterable[tuple[int, int]], total: int | None) -> bool:
    """Whether the pieces cover 0 to `total` without gap or overlap."""
    end = 0
    for first, length in sorted(pieces):
        if first != end:
            return False
        end += length
    return end == total
