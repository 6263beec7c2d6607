"""What a task is to the model, a file for each kind: its head, its labels, its loss, its answers and its scores.

Adding a kind is one file and one line in `KINDS`.
"""

from __future__ import annotations

from typing import Any

from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.classification import Classification
from mat_ds.tasks.kinds.regression import Regression
from mat_ds.tasks.spec import TaskSpec

KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Regression, Classification)}


def kind_of(spec: TaskSpec) -> Kind:
    """What a task is to the model."""
    return KINDS[spec.kind](spec)


def kind_of_model(config: Any) -> type[Kind]:
    """The kind of task that a model answers, or is being built to answer, by transformers' configuration of it."""
    return next((kind for kind in KINDS.values() if kind.fits(config)), Classification)
