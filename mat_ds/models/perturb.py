"""The adversary's hand: a perturbation added to the output of a model's word embedding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


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
        embedding.register_forward_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._delta is None:
            return None
        return (output.float() + self._delta).to(output.dtype)

    @contextmanager
    def applied(self, delta: Tensor | None) -> Iterator[None]:
        """Within it, forward passes see x + delta; delta is (B, L, H) fp32, of the batch that is passed."""
        self._delta = delta
        try:
            yield
        finally:
            self._delta = None
