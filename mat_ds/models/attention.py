"""Which kernels of attention an architecture has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mat_ds.errors import Problem
from mat_ds.models.pretrained import architecture_of


def kernels_of(architecture: Any) -> tuple[str, ...]:
    """The values of `model.attention` that a class of transformers can compute with.

    Eager attention is plain matrix products, which every class has and which alone have second derivatives.
    """
    return ("sdpa", "eager") if architecture._supports_sdpa else ("eager",)


def attention_problems(name: str, config: Any, asked: str | None) -> Iterator[Problem]:
    """Yields a problem if an architecture lacks the kernels that `model.attention` asks for.

    Args:
        name: of the model.
        config: of the model.
        asked: the option; None leaves the choice to transformers.
    """
    architecture = architecture_of(config) if asked else None
    if architecture and asked not in (able := kernels_of(architecture)):
        reason = f"{config.model_type}, the architecture of {name}, computes attention with {' or '.join(able)} alone"
        yield Problem("model.attention", asked, reason, f"leave it out, or pass model.attention={able[0]}")
