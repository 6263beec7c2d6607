"""Statistics of a perturbation's steps: how far they move it, and how much of that is noise."""

from __future__ import annotations

import torch
from torch import Tensor

from mat_ds.methods import ops


class Moves:
    """Collects the Euclidean norms of each step's parts, per sample.

    Args:
        there: the texts that count, (B,) bool; None: all.
    """

    def __init__(self, there: Tensor | None = None) -> None:
        self._there = there
        self._drifts: list[Tensor] = []
        self._noises: list[Tensor] = []
        self._shares: list[Tensor] = []

    @torch.no_grad()
    def add(self, delta: Tensor, step: Tensor, noise: Tensor | float = 0.0, kept: Tensor | float = 1.0) -> None:
        """Adds one step.

        Args:
            delta: the perturbation before the step, (B, L, H).
            step: the ascent that is added to it.
            noise: the noise that is added to it.
            kept: for each sample, the fraction of the step that remains if it is projected before the noise is added.
        """
        size, length = ops.l2(delta), ops.l2(step)
        self._shares.append(ops.divide(length, torch.maximum(size, length)))
        self._drifts.append(kept * length)
        self._noises.append(ops.l2(noise) if isinstance(noise, Tensor) else torch.zeros_like(length))

    def __call__(self) -> dict[str, Tensor]:
        """The means over steps and samples; empty if there was no step.

        Returns:
            `delta_moved`: norm of the step relative to that of delta, at most 1. `delta_drift` and `delta_noise`: norms of
            the gradient's part and of the noise.
        """
        found = {"delta_moved": self._shares, "delta_drift": self._drifts, "delta_noise": self._noises}
        if self._there is not None:
            found = {name: [value[self._there] for value in values] for name, values in found.items()}
        return {name: torch.stack(values).mean() for name, values in found.items() if values}
