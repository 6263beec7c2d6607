"""Kinds of tasks, one file each: model head, labels, loss, answers and scores.

Adding a kind takes one file and one line in `KINDS`.
"""

from __future__ import annotations

from typing import Any

from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.causal_lm import CausalLM
from mat_ds.tasks.kinds.classification import Classification
from mat_ds.tasks.kinds.multi_label import MultiLabel
from mat_ds.tasks.kinds.multiple_choice import MultipleChoice
from mat_ds.tasks.kinds.regression import Regression
from mat_ds.tasks.kinds.span_qa import SpanQA
from mat_ds.tasks.kinds.token_classification import TokenClassification
from mat_ds.tasks.spec import TaskSpec

# Those that the class of a model's head tells come before those that its number of labels tells.
ORDER = (CausalLM, MultipleChoice, SpanQA, TokenClassification, MultiLabel, Regression, Classification)
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in ORDER}


def kind_of(spec: TaskSpec) -> Kind:
    """The kind of a task."""
    return KINDS[spec.kind](spec)


def kind_of_model(config: Any) -> type[Kind]:
    """The kind of task that a transformers configuration is for."""
    return next((kind for kind in KINDS.values() if kind.fits(config)), Classification)
