"""The adversary's hand: a perturbation added to the output of a model's word embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, cat, nn

from mat_ds.errors import Problem, UserError

# Tokens of a pass that is tried before it counts.
MOST_TRIED = 16
OTHER_MODEL = "take a model that reads its word embeddings once, examples first, or a method without a perturbation"


def word_embedding(model: Any) -> Any:
    """The module that turns tokens into what is perturbed; None if the model has no such table. Of an encoder-decoder that is
    the encoder's, which reads the text; its decoder reads the same tokens, shifted and unperturbed, as in the code of R3F."""
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    try:
        found = (model.get_encoder() if encoder_decoder else model).get_input_embeddings()
    except NotImplementedError:  # one that hashes its characters
        return None
    return found if isinstance(found, nn.Module) and isinstance(getattr(found, "embedding_dim", None), int) else None


class EmbeddingPerturbation:
    """Adds delta to the word embeddings of a model from inside, while it is applied.

    A hook on the module of the word embeddings works for every encoder and decoder, for left and right padding and
    under ZeRO-3, where feeding `inputs_embeds` would have to rebuild position ids and gather parameters by hand.

    Args:
        model: a transformers model; one without a table of words makes passes too, but none is perturbed.

    Attributes:
        width: of the word embeddings, H; 0 where there are none.
    """

    def __init__(self, model: nn.Module):
        embedding = word_embedding(model)
        self.width: int = embedding.embedding_dim if embedding is not None else 0
        self._name = str(getattr(model, "name_or_path", ""))
        self._ran = 0
        self._delta: Tensor | None = None
        self._frozen_from: int | None = None
        self._seen: list[Tensor] | None = None
        self._hook = None if embedding is None else embedding.register_forward_hook(self._add)

    def remove(self) -> None:
        """Leaves the model as it was."""
        if self._hook:
            self._hook.remove()

    def _add(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if self._delta is None:
            return None
        self._ran += 1
        if output.shape != self._delta.shape:
            shapes = f"{tuple(output.shape)}, where a perturbation of each example's tokens has {tuple(self._delta.shape)}"
            raise UserError(Problem("model.name", self._name, f"its word embeddings have the shape {shapes}", OTHER_MODEL))
        if self._frozen_from is not None:
            output = cat([output[: self._frozen_from], output[self._frozen_from :].detach()])
        moved = (output.float() + self._delta).to(output.dtype)
        if self._seen is not None:
            self._seen[:] = output.detach().float(), moved.detach().float() - output.detach().float()
        return moved

    @contextmanager
    def applied(self, delta: Tensor | None, frozen_from: int | None = None) -> Iterator[None]:
        """Within it, forward passes see x + delta.

        Args:
            delta: (B, L, H) fp32, of the batch that is passed.
            frozen_from: from this example on, x is a constant: its gradient does not train the word embeddings.

        Raises:
            UserError: if a pass did not read the word embeddings once, or not as (B, L, H).
        """
        if delta is not None and self._hook is None:
            raise UserError(
                Problem("model.name", self._name, "it has no table of word embeddings that could be perturbed", OTHER_MODEL)
            )
        self._delta, self._frozen_from, self._ran = delta, frozen_from, 0
        try:
            yield
            if delta is not None and self._ran != 1:
                raise UserError(Problem("model.name", self._name, f"a pass reads its word embeddings {self._ran} times: a "
                                        "perturbation would be added as often", OTHER_MODEL))  # fmt: skip
        finally:
            self._delta = self._frozen_from = None

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Within it, a perturbed pass leaves x and (x + delta) - x here, in fp32, as the compute dtype has them."""
        seen: list[Tensor] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None


@torch.no_grad()
def check_perturbable(key: str, name: str, model: Any, inputs: Mapping[str, Tensor]) -> None:
    """Makes one pass on the CPU, of weights that may be no more than stand-ins.

    Args:
        key, name: what named the model, and its name.
        model, inputs: the classifier, and a short batch of one example.

    Raises:
        UserError: if the pass fails, or cannot be perturbed.
    """
    hook, training = EmbeddingPerturbation(model), model.training
    if inputs["input_ids"].shape == (1, 1):  # which looks the same with time first
        inputs = {name: value.repeat(2, 1) for name, value in inputs.items()}
    model.eval()
    try:
        with hook.applied(torch.zeros(*inputs["input_ids"].shape, hook.width)):
            model(**inputs)
    except UserError as error:
        (problem,) = error.problems
        raise UserError(Problem(key, name, problem.reason, problem.fix)) from None
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        reason = f"a pass over a first example fails ({type(error).__name__}: {first})"
        raise UserError(Problem(key, name, reason, "check that model and tokenizer belong together")) from None
    finally:
        model.train(training)
        hook.remove()
