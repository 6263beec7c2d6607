"""Sets the dropout probability of the classification head, where the architecture has its own."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from mat_ds.errors import Problem, UserError
from mat_ds.models.pretrained import new_model

# Names of the head's dropout in various architectures. A configuration may have one that its classifier ignores (GPT-2's
# summary_first_dropout), and a classifier may read one that its configuration lacks (DeBERTa's cls_dropout).
OPTIONS = (
    "classifier_dropout", "classifier_dropout_prob", "classifier_dropout_rate", "cls_dropout", "pooler_dropout",
    "seq_classif_dropout", "summary_first_dropout", "summary_last_dropout",
)  # fmt: skip


def set_head_dropout(config: Any, name: str, probability: float) -> None:
    """Sets every dropout of the head, and no other.

    Args:
        config: of the classifier; changed in place.
        name: of the model.
        probability: of dropping an entry.

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
    """The options that set a dropout of the head. Found by giving each a distinct value and looking for it in a model on the
    meta device."""
    # Distinct powers of two: unlikely in any configuration, and exact in every precision.
    marks = {option: 2.0 ** -(20 + i) for i, option in enumerate(OPTIONS)}
    marked = deepcopy(config)
    for option, mark in marks.items():
        setattr(marked, option, mark)
    with torch.device("meta"):
        model = new_model(marked)
    body = set(model.base_model.modules()) if model.base_model is not model else set()
    found = {getattr(module, "p", None) for module in model.modules() if module not in body}
    return [option for option, mark in marks.items() if mark in found]
