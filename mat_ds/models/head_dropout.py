"""A dropout probability of the classification head's own, for the configurations that have one."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from mat_ds.errors import Problem, UserError
from mat_ds.models.pretrained import new_model

# What the head's dropout is called, by architecture. A configuration may hold one that its classifier never reads
# (summary_first_dropout of GPT-2), and a classifier may read one that its configuration does not hold (cls_dropout of DeBERTa).
OPTIONS = (
    "classifier_dropout", "classifier_dropout_prob", "classifier_dropout_rate", "cls_dropout", "pooler_dropout",
    "seq_classif_dropout", "summary_first_dropout", "summary_last_dropout",
)  # fmt: skip


def set_head_dropout(config: Any, name: str, probability: float) -> None:
    """Sets every dropout between a model and its labels, and no other.

    Args:
        config: of the classifier; changed in place.
        name: the model's.
        probability: of an entry to be dropped.

    Raises:
        UserError: if the head has no dropout of its own.
    """
    options = _options_read(config)
    if not options:
        raise UserError(
            Problem(
                "model.head_dropout",
                probability,
                f"the classification head of {name} ({config.model_type}) has no dropout of its own",
                "leave model.head_dropout out; model.dropout sets every dropout that the model has",
            )
        )
    for option in options:
        setattr(config, option, probability)


def _options_read(config: Any) -> list[str]:
    """Which of the options decide about a dropout of the head: seen in a model without memory, where each has a value of its
    own."""
    # Powers of two, which nobody would choose, and which no precision rounds.
    marks = {option: 2.0 ** -(20 + i) for i, option in enumerate(OPTIONS)}
    marked = deepcopy(config)
    for option, mark in marks.items():
        setattr(marked, option, mark)
    with torch.device("meta"):
        model = new_model(marked)
    body = set(model.base_model.modules()) if model.base_model is not model else set()
    found = {getattr(module, "p", None) for module in model.modules() if module not in body}
    return [option for option, mark in marks.items() if mark in found]
