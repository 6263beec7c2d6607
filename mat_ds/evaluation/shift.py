"""Calibration under shift: how far probabilities can be trusted on texts that were changed."""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.evaluation.scores import Outcome
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind


def shifted_quality(kind: Kind, found: Outcome, examples: Sequence[Example]) -> dict[str, float]:
    """`nll`, `brier`, `ece`, ... of answers to changed texts, without the model's temperature; empty if the kind of task has
    no probabilities. Every rank must call it.

    Args:
        found: the answers.
        examples: what was answered, with labels.
    """
    if not kind.calibrates:
        return {}

    def measure() -> dict[str, float]:
        from mat_ds.evaluation.calibration import judged, quality

        return quality(judged(kind, found.kept.numpy(), examples))

    return on_rank_zero(measure)
