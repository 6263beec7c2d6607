"""What a model's output is read as, and what metrics and files make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# First line of a submission file for the GLUE server.
SUBMISSION_HEADER = "index\tprediction"
# The logits, one per sample, in a model's output, given its inputs.
Read = Callable[[Any, Mapping[str, "Tensor"]], "Tensor"]


def read_output(output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of a transformers model with a head: (B, ...), where B is the number of samples."""
    logits: Tensor = output.logits
    return logits


@dataclass(frozen=True)
class Answered:
    """What metrics compare, for N samples.

    Attributes:
        references, predictions: class numbers or scores, (N,), or what the metrics of the kind compare instead.
        probabilities: of each class, (N, C); None if the kind has none.
        sequences: names of the true and the predicted tags of each of N texts, for metrics that count spans.
    """

    references: Any
    predictions: Any
    probabilities: np.ndarray | None = None
    sequences: tuple[list[list[str]], list[list[str]]] | None = None
