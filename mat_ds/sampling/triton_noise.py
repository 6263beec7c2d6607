"""The kernel of `noise_kernel`, in Triton's subset of Python; importing it needs Triton."""

# Its functions are compiled: no annotations but Triton's own, and no names but its own and constants.
# mypy: ignore-errors

import triton
import triton.language as tl
from torch import Tensor

from mat_ds.sampling import philox

# Counters of one program, with four numbers each.
COUNTERS = 256
M0, M1 = tl.constexpr(philox.MULTIPLIERS[0]), tl.constexpr(philox.MULTIPLIERS[1])
W0, W1 = tl.constexpr(philox.WEYL[0]), tl.constexpr(philox.WEYL[1])
ROUNDS = tl.constexpr(philox.ROUNDS)
UNIT, HALF_UNIT, ANGLE = tl.constexpr(2.0**-32), tl.constexpr(2.0**-33), tl.constexpr(6.283185307179586 * 2.0**-32)


@triton.jit
def _pair(word, other):
    """Box-Muller, as in `philox._normals`."""
    radius = tl.sqrt(-2.0 * tl.log(word.to(tl.float32) * UNIT + HALF_UNIT))
    angle = other.to(tl.float32) * ANGLE
    return radius * tl.cos(angle), radius * tl.sin(angle)


@triton.jit
def normal_numbers(key, counter, SIZE: tl.constexpr):
    """The four numbers of each of SIZE counters, one after another."""
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = c0 * 0, c0 * 0
    k0, k1 = key.to(tl.int64).to(tl.uint32), (key.to(tl.int64) >> 32).to(tl.uint32)
    for _ in tl.static_range(ROUNDS):
        p0, p1 = c0.to(tl.uint64) * M0, c2.to(tl.uint64) * M1
        c0, c2 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1, c3 = p1.to(tl.uint32), p0.to(tl.uint32)
        k0, k1 = (k0.to(tl.uint64) + W0).to(tl.uint32), (k1.to(tl.uint64) + W1).to(tl.uint32)
    first, second = _pair(c0, c1)
    third, fourth = _pair(c2, c3)
    # So that neighbours in memory are a program's neighbours too.
    return tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))


@triton.jit(do_not_specialize=["key", "place", "numel"])
def _add_numbers(theta, void, scale, key, place, numel, SIZE: tl.constexpr):
    """A program computes the numbers of SIZE counters."""
    place = place.to(tl.int64)
    counter = place // 4 + tl.program_id(0).to(tl.int64) * SIZE
    at = counter * 4 - place + tl.arange(0, 4 * SIZE)
    inside = (at >= 0) & (at < numel)
    before = tl.load(theta + at, mask=inside, other=0.0)
    factor = scale * (1.0 - tl.load(void))
    tl.store(theta + at, before + factor * normal_numbers(key, counter + tl.arange(0, SIZE), SIZE), mask=inside)


def add_numbers(theta: Tensor, scale: float, key: int, place: int, void: Tensor) -> None:
    """theta += scale * (1 - void) * normal numbers; see `noise_kernel.Kernel`."""
    numel = theta.numel()
    programs = triton.cdiv(place % 4 + numel, 4 * COUNTERS)
    _add_numbers[(programs,)](theta, void, scale, key, place, numel, SIZE=COUNTERS)
