"""Keyed randomness: every draw depends only on its key, never on earlier draws.

So resuming needs no generator state, and a run on another number of ranks draws the same numbers.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

Part = int | str

# Noise of a parameter is drawn in whole chunks of this many elements, each with its own key, and then sliced: a draw of n
# numbers is not a prefix of a longer one, so the amount drawn must not depend on shards. A chunk stays in the cache of a
# processor; on a card it is long enough that few are launched, and short enough that all cards of 80 multiprocessors or more
# draw the same numbers.
CPU_CHUNK, GPU_CHUNK = 1 << 16, 1 << 19


def seed_from(*parts: Part) -> int:
    """A 63-bit seed from a key such as `(run seed, outer step, "theta", sample, parameter index, chunk)`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def noise_key(seed: int, outer_step: int, *name: Part) -> int:
    """The key of all numbers of one name in an outer step; which of them a token gets depends on its place in the batch."""
    return seed_from(seed, outer_step, *name)


def dropout_seed(seed: int, outer_step: int, micro_batch: int, masks: tuple[Part, ...]) -> int:
    """The seed of the dropout masks of one pass over a micro-batch: passes with equal `masks` drop the same units."""
    return seed_from(seed, outer_step, "dropout", micro_batch, *masks)


def generator(device: torch.device, *parts: Part) -> torch.Generator:
    """A generator on `device` seeded from a key."""
    return torch.Generator(device=device).manual_seed(seed_from(*parts))


def chunk_size(device: torch.device) -> int:
    """How many elements a chunk of noise has on a device."""
    return CPU_CHUNK if device.type == "cpu" else GPU_CHUNK


def stream_name(device: torch.device) -> str:
    """Names the stream of noise of a device: under another name the same keys give other numbers."""
    return f"{device.type}, chunks of {chunk_size(device)}"


CPU_STREAM = stream_name(torch.device("cpu"))


def add_normal_(
    theta: Tensor, scale: float, key: tuple[Part, ...], total: int, offset: int, device: torch.device | None = None
) -> None:
    """theta += scale * elements `offset ..` of the standard normal vector of length `total` that belongs to `key`.

    Args:
        theta: fp32, flat.
        scale: of the numbers.
        key: identifies the vector; chunk `c` of it has the key `(*key, c)`.
        total: length of the whole vector, e.g. the number of elements of a parameter.
        offset: the element that is added to the first one of `theta`.
        device: where the numbers are drawn, if not where `theta` is; each kind of device has its own stream.
    """
    device = device or theta.device
    size, end = chunk_size(device), offset + theta.numel()
    drawn = torch.empty(min(size, total), device=device)
    for chunk in range(offset // size, -(-end // size)):
        first = chunk * size
        numbers = drawn[: total - first].normal_(generator=generator(device, *key, chunk))
        begin, stop = max(first, offset), min(first + numbers.numel(), end)
        theta[begin - offset : stop - offset].add_(numbers[begin - first : stop - first].to(theta.device), alpha=scale)
