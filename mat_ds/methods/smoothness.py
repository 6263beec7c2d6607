"""Shared by SMART, ALUM and SALT: an adversary that maximises the divergence R from the clean prediction."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from mat_ds.config.section import Count, Positive, Weight
from mat_ds.methods import ops
from mat_ds.methods.base import Engine, Objective
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import AdversarialSettings, Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class SmoothnessSettings(AdversarialSettings):
    lam: Weight = Field(1.0, description="weight of the divergence R of clean and perturbed prediction")
    delta_lr: Weight = Field(1e-3, description="step size eta of the perturbation")
    delta_init_scale: Positive = Field(1e-5, description="sigma of the normal start; R has no gradient at zero")
    delta_max_norm: Positive = Field(1e-5, description="radius epsilon of the Linf ball, per entry")

    @property
    def divergence(self) -> Divergence:
        return Divergence("lam", self.lam)

    @property
    def separate_passes(self) -> bool:
        return True

    @property
    def radius_powers(self) -> Mapping[str, float]:
        return {"delta_max_norm": 1.0, "delta_init_scale": 1.0, "delta_lr": 1.0}


class AscentSettings(SmoothnessSettings):
    delta_steps: Count = Field(1, description="K of the perturbation: ascents per batch")


def first_delta(engine: Engine, batch: MicroBatch, s: SmoothnessSettings) -> Tensor:
    """delta_0 ~ N(0, sigma^2), (B, L, H), zero on padding."""
    return s.delta_init_scale * engine.normal(batch, "delta init") * batch.mask


def ascend(
    engine: Engine, batch: MicroBatch, clean: Tensor, s: AscentSettings, objective: Objective, moves: Moves | None = None
) -> Tensor:
    """delta_K, (B, L, H): K times delta <- Pi[delta + eta g / ||g||_inf], g the gradient of each sample's R.

    Each pass has dropout masks of its own.

    Args:
        engine, batch: where the passes are made.
        clean: the clean prediction (B, C), treated as a constant.
        s: the options.
        objective: has the divergence R.
        moves: collects statistics of every step.
    """
    delta, payoff = first_delta(engine, batch, s), partial(objective.divergence, clean.detach(), batch=batch)
    for k in range(s.delta_steps):
        gradient = engine.delta_gradient(batch, ("delta", k), delta, payoff)
        step = s.delta_lr * ops.normalise(gradient * batch.mask, "linf")
        if moves:
            moves.add(delta, step)
        delta = ops.project(delta + step, s.delta_max_norm, "clamp")
    return delta


def clean_prediction(engine: Engine, batch: MicroBatch) -> Tensor:
    """The clean prediction (B, C), without a graph, with the dropout masks of the pass that trains."""
    return engine.probe(batch, ("theta",))
