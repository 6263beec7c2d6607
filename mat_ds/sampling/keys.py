"""Keyed randomness: every draw depends only on its key, never on earlier draws.

So resuming needs no generator state, and a run on another number of ranks draws the same numbers.
"""

from __future__ import annotations

import hashlib

import torch

Part = int | str

# Noise of a parameter is drawn in whole chunks of this many elements, each with its own key, and then sliced: a draw of n
# numbers is not a prefix of a longer one, so the amount drawn must not depend on shards.
CHUNK = 1 << 16


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


def normal_slice(device: torch.device, key: tuple[Part, ...], total: int, offset: int, numel: int) -> torch.Tensor:
    """Elements `offset .. offset + numel` of the standard normal vector of length `total` that belongs to `key`.

    Args:
        device: where the numbers are drawn; each kind of device has its own stream.
        key: identifies the vector; chunk `c` of it has the key `(*key, c)`.
        total: length of the whole vector, e.g. the number of elements of a parameter.
        offset: first element wanted.
        numel: number of elements wanted.

    Returns:
        fp32 tensor of shape (numel,).
    """
    pieces = []
    for chunk in range(offset // CHUNK, -(-(offset + numel) // CHUNK)):
        first = chunk * CHUNK
        length = min(CHUNK, total - first)
        drawn = torch.randn(length, generator=generator(device, *key, chunk), device=device, dtype=torch.float32)
        pieces.append(drawn[max(offset - first, 0) : min(offset + numel - first, length)])
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]
