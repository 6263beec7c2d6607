"""Keyed randomness: every draw depends only on its key, never on earlier draws.

So resuming needs no generator state, and a run on another number of ranks draws the same numbers.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Part = int | str

# Noise of a parameter is drawn in whole chunks of this many elements, each with its own key, and then sliced: a draw of n
# numbers is not a prefix of a longer one, so the amount drawn must not depend on shards. A chunk stays in the cache of a
# processor; and as torch cuts longer draws by what a card holds at once, it is so short that V100 and RTX 3090 draw the same.
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
    from torch import Generator

    return Generator(device=device).manual_seed(seed_from(*parts))


def add_normal_(
    theta: Tensor, scale: float, key: tuple[Part, ...], total: int, offset: int, device: torch.device | None = None,
    weight: Tensor | float = 1.0,
) -> None:  # fmt: skip
    """theta += scale * elements `offset ..` of the standard normal vector of length `total` that belongs to `key`.

    Args:
        theta: fp32, flat.
        scale: of the numbers.
        key: identifies the vector; chunk `c` of it has the key `(*key, c)`.
        total: length of the whole vector, e.g. the number of elements of a parameter.
        offset: the element that is added to the first one of `theta`.
        device: where the numbers are drawn, if not where `theta` is; each kind of device has its own stream.
        weight: another factor of the numbers, which may be on the device of `theta`.
    """
    from torch import empty

    device = device or theta.device
    end = offset + theta.numel()
    drawn = empty(min(CHUNK, total), device=device)
    for chunk in range(offset // CHUNK, -(-end // CHUNK)):
        first = chunk * CHUNK
        numbers = drawn[: total - first].normal_(generator=generator(device, *key, chunk))
        begin, stop = max(first, offset), min(first + numbers.numel(), end)
        here = numbers[begin - first : stop - first].to(theta.device).mul_(weight)
        theta[begin - offset : stop - offset].add_(here, alpha=scale)
