"""A micro-batch, as methods and losses see it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MicroBatch:
    """A slice of the global batch, which does not depend on the number of ranks.

    In the shapes of methods, B is the number of texts that the model reads. It is the number of samples too, unless a sample
    has several texts: one for each of C choices. Then inputs are (samples, C, L), and each choice is perturbed on its own.

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
        """The attention mask, one row a text, (B, L)."""
        return self.inputs["attention_mask"].flatten(0, -2)

    @property
    def texts(self) -> int:
        """B, the number of texts that the model reads."""
        return len(self._real)

    @cached_property
    def examples(self) -> Tensor:
        """Position of each text in the global batch, (B,)."""
        from torch import arange

        return arange(self.texts, device=self._real.device) + self.index * self.texts

    @cached_property
    def tokens(self) -> Tensor:
        """Position of each real token in its text, counted without padding, (B, L)."""
        return (self._real.long().cumsum(1) - 1).clamp(min=0)
