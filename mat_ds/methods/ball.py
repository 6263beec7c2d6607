"""Shared by PGD, FreeAT and FreeLB: ascent on the task loss within a ball around each sample's word embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.config.section import Count, Weight
from mat_ds.methods import ops
from mat_ds.methods.base import Engine, Masks, Objective
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import AdversarialSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class BallSettings(AdversarialSettings):
    delta_steps: Count = Field(3, description="K of the perturbation: gradients taken per batch")
    delta_lr: Weight = Field(0.1, description="length alpha of a step, in the norm of delta_norm")
    delta_init_norm: Weight = Field(
        0.2, description="of the uniform start: entries up to this / sqrt(real tokens x H) (l2) or this (linf)"
    )
    delta_max_norm: Weight = Field(0.3, description="radius epsilon of the ball, per sample; 0: none")
    delta_norm: Literal["l2", "linf"] = Field("l2", description="norm of step and ball, per sample over its real tokens")

    @property
    def radius_powers(self) -> Mapping[str, float]:
        first = "delta_max_norm" if self.delta_max_norm else "delta_lr"  # without a ball, steps alone say how far it gets
        return {first: 1.0, "delta_lr": 1.0, "delta_init_norm": 1.0}


def uniform_delta(engine: Engine, batch: MicroBatch, s: BallSettings) -> Tensor:
    """delta_0 (B, L, H): uniform noise, zero on padding, not projected.

    In the l2 norm it is divided by the root of the number of entries, so that its size does not depend on the text's length.
    """
    start = engine.uniform(batch, "delta init") * batch.mask
    if s.delta_norm == "linf":
        return s.delta_init_norm * start
    return s.delta_init_norm * start / ops.root_of_entries(batch.mask, start.shape[-1])


def ascend_in_ball(delta: Tensor, gradient: Tensor, batch: MicroBatch, s: BallSettings, moves: Moves | None = None) -> Tensor:
    """Pi[delta + alpha g / ||g||] for each sample, (B, L, H), without a graph.

    Args:
        delta, gradient: (B, L, H).
        batch: has the mask; padding stays zero.
        s: the options.
        moves: collects statistics of the step.
    """
    step = s.delta_lr * ops.normalise(gradient * batch.mask, s.delta_norm)
    if moves:
        moves.add(delta, step)
    moved = delta.detach() + step
    if not s.delta_max_norm:
        return moved
    return ops.project(moved, s.delta_max_norm, "l2" if s.delta_norm == "l2" else "clamp")


def attack(
    engine: Engine,
    batch: MicroBatch,
    s: BallSettings,
    objective: Objective,
    masks: Masks,
    steps: int,
    moves: Moves | None = None,
) -> Tensor:
    """The perturbation (B, L, H) after `steps` ascents on the task loss, all with the same dropout masks.

    Each ascent costs two forward passes.
    """
    delta = uniform_delta(engine, batch, s)

    def payoff(logits: Tensor) -> Tensor:
        return objective.loss(logits, batch) * len(batch.labels)

    for _ in range(steps):
        delta = ascend_in_ball(delta, engine.delta_gradient(batch, masks, delta, payoff), batch, s, moves)
    return delta
