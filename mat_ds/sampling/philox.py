"""Philox4x32-10, a counter-based random generator (Salmon et al. 2011): each number depends only on its position and a key.

So a sub-batch, other padding or another order draws the same numbers. It uses torch integers only: words are identical on every
device, and normal numbers agree up to rounding of log and cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORD = 0xFFFFFFFF

Words = tuple[Tensor, Tensor, Tensor, Tensor]

# Blocks drawn at a time: few enough for a core's cache, or for little GPU memory.
CPU_BLOCKS, GPU_BLOCKS = 1 << 15, 1 << 21


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random words per counter.

    Args:
        counter: four broadcastable int64 tensors of unsigned 32-bit words; early rounds only compute distinct ones.
        key: two unsigned 32-bit words.

    Returns:
        Four int64 tensors of unsigned 32-bit words.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(ROUNDS):
        # Overflowing products keep their low 64 bits, as needed. c1 and c3 are only masked at the end: all but the xor ignore
        # their high halves.
        low0, low1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = ((low1 >> 32) ^ (c1 ^ k0)) & WORD, low1
        c2, c3 = ((low0 >> 32) ^ (c3 ^ k1)) & WORD, low0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1 & WORD, c2, c3 & WORD


def uniform(key: int, examples: Tensor, tokens: Tensor, width: int) -> Tensor:
    """Uniform numbers on [-1, 1); arguments and result as for `normal`."""
    return _drawn(_uniforms, key, examples, tokens, width)


def normal(key: int, examples: Tensor, tokens: Tensor, width: int) -> Tensor:
    """Standard normal numbers, each a function of (key, example, token, unit).

    Args:
        key: 64 bits.
        examples: (B,) int64, number of each row's example.
        tokens: (B, L) int64, position of each token.
        width: H.

    Returns:
        (B, L, H) fp32 on the device of `tokens`.
    """
    return _drawn(_normals, key, examples, tokens, width)


def normal_run(key: int, place: int, numel: int, device: torch.device) -> Tensor:
    """Standard normal numbers `place` to `place + numel` of the sequence of a key: four of each counter 0, 1, 2, ...

    Args:
        key: 64 bits.
    """
    counters = torch.arange(place // 4, -(-(place + numel) // 4), device=device).view(1, 1, -1)
    zero = torch.zeros((), dtype=torch.long, device=device)
    drawn = torch.empty(1, 1, 4, counters.numel(), device=device)
    _normals(drawn, philox((counters & WORD, counters >> 32, zero, zero), (key & WORD, key >> 32 & WORD)))
    return drawn.view(4, -1).T.reshape(-1)[place % 4 :][:numel]


def _drawn(fill: Callable[[Tensor, Words], None], key: int, examples: Tensor, tokens: Tensor, width: int) -> Tensor:
    device, (rows, columns) = tokens.device, tokens.shape
    blocks = -(-width // 4)
    limit = CPU_BLOCKS * torch.get_num_threads() if device.type == "cpu" else GPU_BLOCKS
    at_once = max(1, limit // max(1, columns * blocks))
    # the i-th words of all blocks of a token are adjacent
    drawn = torch.empty(rows, columns, 4, blocks, device=device)
    units, zero = torch.arange(blocks, device=device), torch.zeros((), dtype=torch.long, device=device)
    for first in range(0, rows, at_once):
        here = slice(first, first + at_once)
        counter = units, tokens[here].unsqueeze(-1), examples[here].view(-1, 1, 1), zero
        fill(drawn[here], philox(counter, (key & WORD, key >> 32 & WORD)))
    return drawn.view(rows, columns, 4 * blocks)[..., :width]


def _uniforms(out: Tensor, words: Words) -> None:
    """From the upper 24 bits of each word, which fp32 represents exactly."""
    for i, word in enumerate(words):
        torch.sub((word >> 8).float().mul_(2.0**-23), 1.0, out=out[:, :, i])


def _normals(out: Tensor, words: Words) -> None:
    """Box-Muller (1958): two numbers from two words, with all 32 bits used for the tail, up to 6.8 standard deviations."""
    for i in (0, 2):
        radius = words[i].float().mul_(2.0**-32).add_(2.0**-33).log_().mul_(-2.0).sqrt_()
        angle = words[i + 1].float().mul_(2 * math.pi * 2.0**-32)
        torch.mul(radius, angle.cos(), out=out[:, :, i])
        torch.mul(radius, angle.sin_(), out=out[:, :, i + 1])
