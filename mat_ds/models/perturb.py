"""The adversary's hand: a perturbation added to the output of a model's word embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, cat, nn


class EmbeddingPerturbation:
    """Adds delta to the word embeddings of a model from inside, while it is applied.

    A hook on the module of `get_input_embeddings()` works for every encoder and decoder, for left and right padding and
    under ZeRO-3, where feeding `inputs_embeds` would have to rebuild position ids and gather parameters by hand.

    Args:
        model: a transformers model.
    """

    def __init__(self, model: nn.Module):
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        self.width: int = embedding.embedding_dim
        self._delta: Tensor | None = None
        self._frozen_from: int | None = None
        embedding.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._delta is None:
            return None
        if self._frozen_from is not None:
            output = cat([output[: self._frozen_from], output[self._frozen_from :].detach()])
        return (output.float() + self._delta).to(output.dtype)

    @contextmanager
    def applied(self, delta: Tensor | None, frozen_from: int | None = None) -> Iterator[None]:
        """Within it, forward passes see x + delta.

        Args:
            delta: (B, L, H) fp32, of the batch that is passed.
            frozen_from: from this example on, x is a constant: its gradient does not train the word embeddings.
        """
        self._delta, self._frozen_from = delta, frozen_from
        try:
            yield
        finally:
            self._delta = self._frozen_from = None
