"""Is the adversary doing anything? What a perturbation is, what the compute dtype leaves of it, and what it does to R."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.errors import Problem
from mat_ds.methods import ops
from mat_ds.methods.base import Masks, Method, MicroBatch, Objective
from mat_ds.methods.moves import Moves
from mat_ds.ranks.collectives import all_reduce_sum, world_size

# A perturbation whose realised direction is further than this from the intended one is mostly rounding.
VISIBLE_COSINE = 0.9
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# The radius is tried at this many times its size in turn, a quarter of a decade apart.
FACTORS = [10 ** (i / 4) for i in range(41)]


def measure(engine: Engine, method: Method, batch: MicroBatch) -> dict[str, float]:
    """The perturbation of one micro-batch at the present parameters, and its share of R. Every rank must call it.

    Returns:
        Means over the ranks. `R`: divergence of two passes with dropout masks of their own, the second perturbed;
        `R_without`: the same two passes, unperturbed; `R_ratio`: their quotient; `R_shared_masks`: with one set of masks for
        both; `R_eval`: without dropout; `L`. Where there is a perturbation: `delta_linf` and `delta_l2`, norms per sample;
        `entries_changed`, the share of entries of x + delta on real tokens that differ from x in the compute dtype; `cosine`
        of intended and realised delta. Where steps move it, what `Moves` says, and `delta_noise_ratio`, noise over drift.
    """
    moves = Moves()
    delta = method.adversary(engine, batch, moves)
    delta = None if delta is None else delta.detach()
    values = _divergences(engine, method.objective, batch, delta)
    if delta is not None:
        x, moved = engine.realised(batch, delta)
        values |= {
            "delta_linf": ops.linf(delta).mean(),
            "delta_l2": ops.l2(delta).mean(),
            "entries_changed": ((moved != 0) * batch.mask).sum() / (batch.mask.sum() * x.shape[-1]),
            "cosine": cosine(delta, moved, batch.mask),
            **moves(),
        }
    sums = all_reduce_sum(torch.stack([value.double() for value in values.values()]))
    means = dict(zip(values, (sums / world_size()).tolist(), strict=True))
    means["R_ratio"] = means["R"] / means["R_without"] if means["R_without"] else float("inf") if means["R"] else 1.0
    if "delta_drift" in means:
        means["delta_noise_ratio"] = noise_ratio(means["delta_drift"], means["delta_noise"])
    return means


def noise_ratio(drift: float, noise: float) -> float:
    """How random a player's sample is: the norm of its noise over that of its drift; 0 of a player who stands still."""
    return noise / drift if drift else float("inf") if noise else 0.0


@torch.no_grad()
def _divergences(engine: Engine, objective: Objective, batch: MicroBatch, delta: Tensor | None) -> dict[str, Tensor]:
    def logits(masks: Masks, perturbed: bool) -> Tensor:
        return engine.probe(batch, masks, delta if perturbed else None)

    first, second = ("telemetry",), ("telemetry", "second")
    clean, off = logits(first, False), logits(None, False)
    pairs = {
        "R": (clean, logits(second, True)),
        "R_without": (clean, logits(second, False)),
        "R_shared_masks": (clean, logits(first, True)),
        "R_eval": (off, logits(None, True)),
    }
    found = {name: objective.divergence(p, q).mean() for name, (p, q) in pairs.items()}
    return {**found, "L": objective.loss(clean, batch.labels)}


def cosine(intended: Tensor, realised: Tensor, mask: Tensor) -> Tensor:
    """Cosine of two perturbations (B, L, H) over real tokens; 1 of nothing with nothing, 0 of something with nothing."""
    a, b = (intended * mask).double().flatten(), (realised * mask).double().flatten()
    if not a.any() and not b.any():
        return torch.ones((), dtype=torch.float64, device=a.device)
    return (a @ b) / (a.norm() * b.norm()).clamp(min=1e-300)


def below_resolution(engine: Engine, method: Method, delta: Tensor, batch: MicroBatch) -> Iterator[Problem]:
    """Whether a perturbation (B, L, H) is below the resolution of the compute dtype. Every rank must call it.

    Yields:
        What is wrong with it, with the smallest radius and the precisions that work; the same on every rank.
    """
    x, moved = engine.realised(batch, delta)
    seen = mean_over_ranks(cosine(delta, moved, batch.mask))
    if seen >= VISIBLE_COSINE:
        return

    def survives(factor: float, dtype: torch.dtype) -> bool:
        there = (x.to(dtype).float() + factor * delta).to(dtype).float() - x.to(dtype).float()
        return mean_over_ranks(cosine(delta, there, batch.mask)) >= VISIBLE_COSINE

    radius = mean_over_ranks(ops.linf(delta).mean())
    factor = next((factor for factor in FACTORS if survives(factor, engine.dtype)), 0.0)
    able = [name for name, dtype in PRECISIONS.items() if survives(1.0, dtype)]
    larger = f"a radius {factor:.1f} times as large (a largest entry of about {radius * factor:.1e}, here {radius:.1e})"
    yield Problem(
        "method.name",
        type(method).__name__,
        f"its perturbation is below the resolution of {_name(engine.dtype)}: intended and realised direction have a cosine of "
        f"{seen:.2f}, the rest is rounding",
        f"take {larger if factor else 'a larger one'}, or {' or '.join(able) or 'fp32'}; "
        "method.on_invisible=warn trains all the same",
    )


def mean_over_ranks(value: Tensor) -> float:
    """Mean of a scalar over the ranks."""
    return float(all_reduce_sum(value.double().clone())) / world_size()


def _name(dtype: torch.dtype) -> str:
    return next(name for name, known in PRECISIONS.items() if known == dtype)
