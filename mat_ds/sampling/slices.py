"""Where parameters lie in the flat master tensors of a rank, and which of their elements are updated together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod


@dataclass(frozen=True)
class Slice:
    """The position of a slice of one parameter in a flat fp32 master tensor.

    Attributes:
        parameter: index of the parameter in `named_parameters` order.
        total: number of elements of the whole parameter.
        offset: first element of the parameter in the slice.
        start: position of the slice in the master tensor.
        numel: length of the slice.
        place: of the parameter's first element among those of all parameters (`places`).
        rate: its step size as a multiple of that of its parameter group.
        matrix: whether its parameter has more than one dimension.
    """

    parameter: int
    total: int
    offset: int
    start: int
    numel: int
    place: int
    rate: float = 1.0
    matrix: bool = True


@dataclass(frozen=True)
class Block:
    """Adjacent slices of a master tensor with one step size, without padding between them, and where they lie together."""

    here: slice
    slices: tuple[Slice, ...]

    @property
    def rate(self) -> float:
        """That of its slices."""
        return self.slices[0].rate

    @cached_property
    def runs(self) -> list[tuple[slice, int]]:
        """Stretches of the block whose elements have consecutive places: where they lie in it, and the place of the first."""
        found: list[tuple[slice, int]] = []
        for piece in self.slices:
            start, place = piece.start - self.here.start, piece.place + piece.offset
            stop = start + piece.numel
            if found and place - start == found[-1][1] - found[-1][0].start:
                start, place = found[-1][0].start, found.pop()[1]
            found.append((slice(start, stop), place))
        return found


def places(shapes: Sequence[Sequence[int]]) -> list[int]:
    """The place of each parameter's first element, if all elements are numbered, those of matrices before those of vectors.

    So a rank's elements have consecutive places: the parameter groups, in whose order DeepSpeed stores them, are these two.

    Args:
        shapes: of all parameters, in `named_parameters` order.
    """
    found, place = [0] * len(shapes), 0
    for index in sorted(range(len(shapes)), key=lambda index: len(shapes[index]) <= 1):
        found[index] = place
        place += prod(shapes[index])
    return found


def blocks_of(slices: Iterable[Slice]) -> list[Block]:
    """The blocks of a master tensor; what lies between two of them, if anything, is padding."""
    blocks: list[Block] = []
    for piece in sorted(slices, key=lambda piece: piece.start):
        stop = piece.start + piece.numel
        if blocks and blocks[-1].here.stop == piece.start and blocks[-1].rate == piece.rate:
            blocks[-1] = Block(slice(blocks[-1].here.start, stop), (*blocks[-1].slices, piece))
        else:
            blocks.append(Block(slice(piece.start, stop), (piece,)))
    return blocks
