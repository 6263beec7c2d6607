"""Statistics of a perturbation's steps: how far they move it, and how much of that is noise."""

from __future__ import annotations

import torch
from torch import Tensor

from mat_ds.methods import ops


class Moves:
    """Collects the Euclidean norms of each step's parts, per sample."""

    def __init__(self) -> None:
        self._drifts: list[Tensor] = []
        self._noises: list[Tensor] = []
        self._shares: list[Tensor] = []

    @torch.no_grad()
    def add(self, delta: Tensor, step: Tensor, noise: Tensor | float = 0.0, kept: Tensor | float = 1.0) -> None:
        """Adds one step.

        Args:
            delta: (B, L, H), before the step.
            step: the ascent added to it.
            noise: of a Langevin step.
            kept: fraction of the step that a projection before the noise keeps, per sample.
        """
        size, length = ops.l2(delta), ops.l2(step)
        self._shares.append(ops.divide(length, torch.maximum(size, length)))
        self._drifts.append(kept * length)
        self._noises.append(ops.l2(noise) if isinstance(noise, Tensor) else torch.zeros_like(length))

    def __call__(self) -> dict[str, Tensor]:
        """Means over steps and samples: `delta_moved`, the step's size relative to delta's, at most 1; `delta_drift` and
        `delta_noise`, the norms of the two parts. Empty if there was no step."""
        found = {"delta_moved": self._shares, "delta_drift": self._drifts, "delta_noise": self._noises}
        return {name: torch.stack(values).mean() for name, values in found.items() if values}
