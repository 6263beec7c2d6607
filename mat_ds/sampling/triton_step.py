"""The kernel of `step_kernel`, in Triton's subset of Python; importing it needs Triton."""

# Its functions are compiled: no annotations but Triton's own, and no names but its own and constants.
# mypy: ignore-errors

import triton
import triton.language as tl

from mat_ds.sampling.triton_noise import COUNTERS, normal_numbers


@triton.jit(do_not_specialize=["key", "place", "numel"])
def _advance(
    theta, gradient, exp_avg, exp_avg_sq, mixture, void,
    rate, decay, beta_1, beta_2, root, eps, scale, anchor, weight,
    key, place, numel,
    DRIFT: tl.constexpr, NOISE: tl.constexpr, MIXED: tl.constexpr, START: tl.constexpr, LAST: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """A program advances the elements of SIZE counters."""
    place = place.to(tl.int64)
    counter = place // 4 + tl.program_id(0).to(tl.int64) * SIZE
    at = counter * 4 - place + tl.arange(0, 4 * SIZE)
    inside = (at >= 0) & (at < numel)
    skipped = tl.load(void) != 0.0
    x = tl.load(theta + at, mask=inside, other=0.0)
    if MIXED:
        mixed = anchor * x if START == 1 else tl.load(mixture + at, mask=inside & (START == 0), other=0.0)
    if DRIFT:
        g = tl.load(gradient + at, mask=inside, other=0.0)
        m = tl.load(exp_avg + at, mask=inside, other=0.0)
        v = tl.load(exp_avg_sq + at, mask=inside, other=0.0)
        m_new = m + (1.0 - beta_1) * (g - m)
        v_new = v + (1.0 - beta_2) * (g * g - v)
        x_new = x * decay - rate * tl.div_rn(m_new, tl.div_rn(tl.sqrt_rn(v_new), root) + eps)
        x = tl.where(skipped, x, x_new)
        tl.store(exp_avg + at, tl.where(skipped, m, m_new), mask=inside)
        tl.store(exp_avg_sq + at, tl.where(skipped, v, v_new), mask=inside)
    if MIXED and START == 2:
        mixed = anchor * x
    if NOISE:
        x += scale * (1.0 - tl.load(void)) * normal_numbers(key, counter + tl.arange(0, SIZE), SIZE)
    if MIXED:
        mixed += weight * x
        tl.store(mixture + at, mixed, mask=inside)
        if LAST:
            x = tl.where(skipped, x, mixed)
    tl.store(theta + at, x, mask=inside)


def advance(own, void, step):
    """See `step_kernel.Kernel`."""
    theta = own["theta"]
    programs = triton.cdiv(step.place % 4 + theta.numel(), 4 * COUNTERS)
    unused = theta  # of what a flag leaves out
    _advance[(programs,)](
        theta, own.get("gradient", unused), own.get("exp_avg", unused), own.get("exp_avg_sq", unused),
        own.get("mixture", unused), void,
        step.rate, step.decay, step.beta_1, step.beta_2, step.root, step.eps, step.scale, step.anchor, step.weight,
        step.key, step.place, theta.numel(),
        DRIFT=step.drift, NOISE=step.scale != 0.0, MIXED=step.mixed, START=step.start, LAST=step.last, SIZE=COUNTERS,
        enable_fp_fusion=False,
    )  # fmt: skip
