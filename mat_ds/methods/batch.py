"""A micro-batch, as methods and losses see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# A sample has no more texts than this.
MOST_TEXTS = 32


def missing_texts(mask: Tensor) -> Tensor:
    """Which of the texts in an attention mask (samples, C, L) stand in for one that a sample lacks, (samples, C): those of a
    single token, since a real one has a question and a choice."""
    return mask.sum(-1) <= 1


@dataclass(frozen=True)
class MicroBatch:
    """A slice of the global batch, which does not depend on the number of ranks.

    In the shapes of methods, B is the number of texts that the model reads. It is the number of samples too, unless a sample
    has several texts: one for each of C choices. Then inputs are (samples, C, L), and each choice is perturbed on its own. A
    sample with fewer choices has texts of one token in their place (`missing_texts`), which are all padding here.

    Attributes:
        inputs: the model's inputs: `input_ids`, `attention_mask`, ..., each (B, L).
        labels: what the kind of the task compares outputs with, (samples, ...), such as class indices or scores, (samples,).
        index: position among the equally large micro-batches of the global batch; random draws for the micro-batch depend
            on it.
        weights: of the samples in the task loss, (samples,) in fp32; None: all 1.
        probabilities: of each label where some sample's label is not certain, (samples, C) in fp32; None: `labels` says all.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    index: int
    weights: Tensor | None = None
    probabilities: Tensor | None = None

    @cached_property
    def doubled(self) -> dict[str, Tensor]:
        """The inputs twice, one after the other, (2B, L)."""
        from torch import cat

        return {name: cat([value, value]) for name, value in self.inputs.items()}

    @cached_property
    def mask(self) -> Tensor:
        """1 on real tokens and 0 on padding, (B, L, 1) in fp32."""
        return self._real.unsqueeze(-1).float()

    @cached_property
    def _real(self) -> Tensor:
        """The attention mask, one row a text, (B, L); zero in texts that a sample lacks."""
        mask = self.inputs["attention_mask"]
        return mask if mask.dim() == 2 else (mask * ~missing_texts(mask).unsqueeze(-1)).flatten(0, -2)

    @cached_property
    def there(self) -> Tensor:
        """Whether a text is one of the sample's, and does not stand in for one that it lacks, (B,)."""
        return self._real.any(1)

    @property
    def texts(self) -> int:
        """B, the number of texts that the model reads."""
        return len(self._real)

    @cached_property
    def examples(self) -> Tensor:
        """A number for each text of the global batch, (B,): the position of its sample, unless a sample has several."""
        from torch import arange

        mask = self.inputs["attention_mask"]
        samples = arange(len(mask), device=mask.device) + self.index * len(mask)
        if mask.dim() == 2:
            return samples
        # Of each sample from a number that does not depend on how many choices others have.
        return (samples.unsqueeze(1) * MOST_TEXTS + arange(mask.shape[1], device=mask.device)).flatten()

    @cached_property
    def tokens(self) -> Tensor:
        """Position of each real token in its text, counted without padding, (B, L)."""
        return (self._real.long().cumsum(1) - 1).clamp(min=0)
