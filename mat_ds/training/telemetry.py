"""Measures what the adversary does: the size of a perturbation, what the compute dtype leaves of it, and its effect on R."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mat_ds.engine.engine import Engine
from mat_ds.errors import Problem
from mat_ds.methods import ops
from mat_ds.methods.base import Masks, Method, Objective
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.moves import Moves
from mat_ds.ranks.collectives import all_reduce_sum, world_size

# If the cosine of intended and realised perturbation is smaller, the latter is mostly rounding error.
VISIBLE_COSINE = 0.9
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# A larger radius that works is searched among these multiples, a quarter of a decade apart.
FACTORS = [10 ** (i / 4) for i in range(41)]


def measure(engine: Engine, method: Method, batch: MicroBatch) -> dict[str, float]:
    """Measures the perturbation of one micro-batch at the current parameters. Every rank must call it.

    Args:
        engine: after `begin`.
        method: of the run.
        batch: a micro-batch of this rank.

    Returns:
        Means over the ranks. `L`: the task loss; `R`: the divergence of a clean and a perturbed pass with different dropout
        masks; `R_without`: the same without the perturbation; `R_ratio`: R / R_without; `R_shared_masks`: R with equal masks;
        `R_eval`: R without dropout. If the method has a perturbation: its norms `delta_linf` and `delta_l2` per sample;
        `entries_changed`: fraction of entries of x + delta on real tokens that differ from x in the compute dtype; `cosine` of
        intended and realised delta. If it is moved in steps: what `Moves` returns, and `delta_noise_ratio`: noise / drift.
    """
    moves = Moves(batch.there)
    delta = method.adversary(engine, batch, moves)
    delta = None if delta is None else delta.detach()
    values = divergences(engine, method.objective, batch, delta)
    if delta is not None:
        x, moved = engine.realised(batch, delta)
        values |= {
            "delta_linf": ops.linf(delta)[batch.there].mean(),
            "delta_l2": ops.l2(delta)[batch.there].mean(),
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
    """Norm of the noise over norm of the drift; 0 if both are 0."""
    return noise / drift if drift else float("inf") if noise else 0.0


@torch.no_grad()
def divergences(engine: Engine, objective: Objective, batch: MicroBatch, delta: Tensor | None) -> dict[str, Tensor]:
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
    found = {name: objective.divergence(p, q, batch).mean() for name, (p, q) in pairs.items()}
    return {**found, "L": objective.loss(clean, batch)}


def cosine(intended: Tensor, realised: Tensor, mask: Tensor) -> Tensor:
    """Cosine of two perturbations (B, L, H) over real tokens, as a scalar; 1 if both are 0, and 0 if only one is."""
    a, b = (intended * mask).double().flatten(), (realised * mask).double().flatten()
    if not a.any() and not b.any():
        return torch.ones((), dtype=torch.float64, device=a.device)
    return (a @ b) / (a.norm() * b.norm()).clamp(min=1e-300)


def below_resolution(engine: Engine, method: Method, delta: Tensor, batch: MicroBatch) -> Iterator[Problem]:
    """Yields a problem if the compute dtype rounds most of a perturbation away. Every rank must call it, and gets the same.

    Args:
        engine, method: of the run.
        delta: (B, L, H) perturbation of `batch`.
        batch: a micro-batch of this rank.

    Yields:
        A problem that names the smallest radius and the precisions that would work.
    """
    x, moved = engine.realised(batch, delta)
    seen = mean_over_ranks(cosine(delta, moved, batch.mask))
    if seen >= VISIBLE_COSINE:
        return

    def survives(factor: float, dtype: torch.dtype) -> bool:
        there = (x.to(dtype).float() + factor * delta).to(dtype).float() - x.to(dtype).float()
        return mean_over_ranks(cosine(delta, there, batch.mask)) >= VISIBLE_COSINE

    radius = mean_over_ranks(ops.linf(delta)[batch.there].mean())
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
