"""Another model whose gradients an attack follows, to see whether its perturbations transfer to the model under attack."""

from __future__ import annotations

from typing import Any

import torch

from mat_ds.artifacts.exported import load_classifier
from mat_ds.errors import Problem, UserError
from mat_ds.models.perturb import word_embedding
from mat_ds.registry.locate import locate
from mat_ds.tasks.kinds.base import Kind

KEY = "attack.surrogate"
FIX = "name a model that was fine-tuned from the same base on the same task"


def load_surrogate(name: str, model: Any, tokenizer: Any, kind: Kind, dtype: torch.dtype) -> Any:
    """Loads the surrogate on the CPU, ready to predict.

    Args:
        name: of the surrogate, as MODEL on the command line.
        model, tokenizer: those under attack.
        kind: of the task.
        dtype: to compute in.

    Raises:
        UserError: if it cannot be loaded, or a perturbation of the one is none of the other: tokens, width of the word
            embeddings and width of the head must be equal.
    """
    try:
        other, its_tokenizer = load_classifier(locate(name), dtype, torch.device("cpu"))
    except UserError as error:
        raise UserError(*(Problem(KEY, name, problem.reason, problem.fix) for problem in error.problems)) from None
    same = {
        "has other tokens": its_tokenizer.get_vocab() == tokenizer.get_vocab(),
        "has word embeddings of another width": width_of(other) == width_of(model),
        "has another number of outputs": kind.width(other.config) == kind.width(model.config),
    }
    if wrong := next((reason for reason, fits in same.items() if not fits), None):
        raise UserError(Problem(KEY, name, f"{wrong} than the model under attack", FIX))
    return other


def width_of(model: Any) -> int | None:
    """Width of the word embeddings; None if there are none."""
    return getattr(word_embedding(model), "embedding_dim", None)
