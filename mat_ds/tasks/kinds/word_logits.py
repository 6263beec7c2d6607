"""The labels and logits of words in a batch. In shapes, W is the number of words of its longest example, L that of tokens.

Labels in a batch are (B, W, 2): the position of each word's first token, -1 if there is none, and its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mat_ds.tasks.example import Example

if TYPE_CHECKING:
    from torch import Tensor


def word_targets(starts: Sequence[Sequence[int]], examples: Sequence[Example]) -> Tensor:
    """Labels of a batch, (B, W, 2); an unknown class is 0.

    Args:
        starts: the number of the word that each token begins, counted from 1; 0 if it begins none.
        examples: as many.
    """
    import torch

    found = torch.zeros(len(examples), max(len(example.texts) for example in examples), 2, dtype=torch.int64)
    found[..., 0] = -1
    for row, (numbers, example) in enumerate(zip(starts, examples, strict=True)):
        for position, number in enumerate(numbers):
            if number:
                found[row, number - 1, 0] = position
        if example.label is not None:
            found[row, : len(example.texts), 1] = torch.tensor(example.label)
    return found


def at_words(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The values (B, L, C) at the first tokens of words, (B, W, C), and whether the model reads one, (B, W)."""
    position = labels[..., 0]
    index = position.clamp(min=0).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, index), position >= 0


def mean_over_words(values: Tensor, read: Tensor) -> Tensor:
    """The mean of values (B, W) over the words that are read, (B,); 0 if none is."""
    return values.where(read, 0.0).sum(1) / read.sum(1).clamp(min=1)
