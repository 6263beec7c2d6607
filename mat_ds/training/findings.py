"""What the predictions for the dev splits say beyond scores: what is confused, and how far probabilities can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mat_ds.evaluation.scores import Outcome
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec


def findings(
    spec: TaskSpec, predicted: Mapping[str, Outcome], dev: Mapping[str, Sequence[Example]]
) -> dict[str, dict[str, Any]]:
    """`confusion` and `calibration` for `results.json`, as far as the kind of the task has them."""
    # Imported late, by the rank that computes them alone: they import scikit-learn and scipy.
    from mat_ds.evaluation.calibration import calibrate
    from mat_ds.tasks.metrics import confusion

    kind, found = kind_of(spec), dict[str, dict[str, Any]]()
    kept = {split: outcome.kept.numpy() for split, outcome in predicted.items()}
    if kind.confuses:
        found["confusion"] = {"labels": list(spec.labels), "counts": {s: confusion(spec, kept[s], dev[s]) for s in kept}}
    if kind.calibrates and sum(map(len, dev.values())) > 1:  # a half cannot be judged by the other if there is only one
        found["calibration"] = calibrate(kind, {split: (kept[split], dev[split]) for split in kept})
    return found
