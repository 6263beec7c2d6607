"""Where parameters lie in the flat master tensors of a rank, and which of their elements are updated together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Slice:
    """The position of a slice of one parameter in a flat fp32 master tensor.

    Attributes:
        parameter: index of the parameter in `named_parameters` order.
        total: number of elements of the whole parameter.
        offset: first element of the parameter in the slice.
        start: position of the slice in the master tensor.
        numel: length of the slice.
    """

    parameter: int
    total: int
    offset: int
    start: int
    numel: int


@dataclass(frozen=True)
class Block:
    """Adjacent slices of a master tensor, without padding between them, and where they lie together."""

    here: slice
    slices: tuple[Slice, ...]


def blocks_of(slices: Iterable[Slice]) -> list[Block]:
    """The blocks of a master tensor; what lies between them is padding."""
    blocks: list[Block] = []
    for piece in sorted(slices, key=lambda piece: piece.start):
        stop = piece.start + piece.numel
        if blocks and blocks[-1].here.stop == piece.start:
            blocks[-1] = Block(slice(blocks[-1].here.start, stop), (*blocks[-1].slices, piece))
        else:
            blocks.append(Block(slice(piece.start, stop), (piece,)))
    return blocks
