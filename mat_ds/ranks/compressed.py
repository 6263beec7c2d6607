"""The mean over chains of how far each has moved, sent in fewer than four bytes a number.

Each rank sends every other that one's part of its move, averages its own part, and all gather these means: a reduce-scatter and
a gather, so that the bytes do not grow with the number of chains. Both times what is sent is rounded. All ranks read the same
bytes of a mean, so all have the same one to the last bit. Error feedback on both sides is that of DoubleSqueeze (Tang et al.
2019, Algorithm 1), except that what is left out of a mean is kept by the rank that made it, with its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

# Numbers that share a scale in int8; the scales add 4 bytes to so many.
BLOCK = 256
LARGEST = 127
# Numbers that are sent at once, so that what is held besides stays small: some 20 bytes for each.
PIECE = 1 << 23


def to_bf16(rows: Tensor) -> Tensor:
    """Rows of fp32 numbers (R, n) as bytes (R, 2 n)."""
    return rows.to(torch.bfloat16).view(torch.uint8)


def from_bf16(sent: Tensor, length: int) -> Tensor:
    """What `to_bf16` made, in fp32 (R, n)."""
    return sent.view(torch.bfloat16).float()


def to_int8(rows: Tensor) -> Tensor:
    """Rows of fp32 numbers (R, n) as bytes: the fp32 scales of blocks of 256, and n multiples of them from -127 to 127.

    A block that is not finite stays so.
    """
    blocks = pad(rows, (0, -rows.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    scales = (blocks.abs().amax(2) / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    multiples = (blocks / scales.unsqueeze(2)).round_().to(torch.int8).flatten(1)[:, : rows.shape[1]]
    return torch.cat((scales.view(torch.uint8), multiples.contiguous().view(torch.uint8)), 1)


def from_int8(sent: Tensor, length: int) -> Tensor:
    """What `to_int8` made of rows of so many numbers, in fp32 (R, n)."""
    count = sent.shape[1] - length
    scales = sent[:, :count].flatten().view(torch.float32).view(len(sent), -1).repeat_interleave(BLOCK, 1)[:, :length]
    return sent[:, count:].view(torch.int8).float().mul_(scales)


@dataclass(frozen=True)
class Compression:
    """How numbers are sent.

    Attributes:
        encode, decode: to bytes and back.
        feedback: whether what rounding has left out is kept, and added to what is sent next (error feedback).
        bytes: of a number.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor, int], Tensor]
    feedback: bool
    bytes: float


COMPRESSIONS = {
    "bf16": Compression(to_bf16, from_bf16, False, 2.0),
    "int8": Compression(to_int8, from_int8, True, 1 + 4 / BLOCK),
}


def mean_move(how: Compression, move: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """The mean of a flat fp32 tensor over a group. Every rank of it must call it.

    Args:
        how: it is sent.
        move: (n,), on the device that the ranks send from.

    Returns:
        The mean, the same on all ranks to the last bit, and what rounding has left out of what this rank stands for: its own
        values, and N times the mean of its part of the N ranks', since only an Nth of what it sends next counts. If it is added
        to the next move, the means of both moves add up to the exact ones but for the last rounding.
    """
    count, rank, length = dist.get_world_size(group), dist.get_rank(group), move.numel()
    part = -(-length // count)
    parts = pad(move, (0, count * part - length)).view(count, part)
    sent = how.encode(parts)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    left = parts - how.decode(sent, part)
    own = how.decode(received, part).mean(0, keepdim=True)
    sent = how.encode(own)
    gathered = sent.new_empty(count, sent.shape[1])
    dist.all_gather_into_tensor(gathered, sent, group=group)
    left[rank] += count * (own - how.decode(sent, part))[0]
    return how.decode(gathered, part).flatten()[:length], left.flatten()[:length]


def average_moves(
    how: Compression, value: Tensor, met: Tensor, residue: Tensor | None, group: dist.ProcessGroup, device: torch.device
) -> None:
    """Overwrites a flat tensor with where it was plus the mean of its moves on all ranks of a group. Every rank must call it.

    Args:
        how: the moves are sent.
        value: (n,), perhaps in host memory.
        met: (n,), where it was, the same on all ranks.
        residue: (n,), what rounding has left out so far, which is brought up to date; None without `feedback`.
        device: that the ranks send from.
    """
    for begin in range(0, value.numel(), PIECE):
        here = slice(begin, begin + PIECE)
        move = value[here] - met[here]
        if residue is not None:
            move += residue[here]
        mean, left = mean_move(how, move.to(device), group)
        torch.add(met[here], mean.to(met.device), out=value[here])
        if residue is not None:
            residue[here].copy_(left)
