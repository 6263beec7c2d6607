"""Adds the adversary's perturbation to the output of a model's word embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, cat, nn

from mat_ds.errors import Problem, UserError

# Maximum tokens of a trial pass.
MOST_TRIED = 16
OTHER_MODEL = "use a model that reads its word embeddings once, batch dimension first, or a method without a perturbation"


def word_embedding(model: Any) -> Any:
    """The module to perturb, or None if the model has no table of word embeddings. For an encoder-decoder it is the encoder's;
    the decoder reads the same tokens shifted and unperturbed, as in R3F's code."""
    encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    try:
        found = (model.get_encoder() if encoder_decoder else model).get_input_embeddings()
    except NotImplementedError:  # a model that hashes characters
        return None
    return found if isinstance(found, nn.Module) and isinstance(getattr(found, "embedding_dim", None), int) else None


class EmbeddingPerturbation:
    """Adds delta to the output of a model's word embedding, by a forward hook, while it is applied.

    A hook works for every encoder and decoder, left and right padding, and ZeRO-3. Feeding `inputs_embeds` instead would
    require rebuilding position ids and gathering parameters by hand.

    Args:
        model: a transformers model; one without word embeddings cannot be perturbed but runs normally. Of a mixture, the
            embeddings of all `members` are perturbed alike.

    Attributes:
        width: H, of the word embeddings; 0 if there are none.
    """

    def __init__(self, model: nn.Module):
        found = [word_embedding(member) for member in getattr(model, "members", [model])]
        embeddings = found if all(embedding is not None for embedding in found) else []
        self.width: int = embeddings[0].embedding_dim if embeddings else 0
        self._name = str(getattr(model, "name_or_path", ""))
        self._ran = 0
        self._delta: Tensor | None = None
        self._frozen_from: int | None = None
        self._seen: list[Tensor] | None = None
        self._hooks = [embedding.register_forward_hook(self._add) for embedding in embeddings]

    def remove(self) -> None:
        """Removes the hook."""
        for hook in self._hooks:
            hook.remove()

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
        """A context in which forward passes see x + delta.

        Args:
            delta: (B, L, H) fp32, for the batch that is passed; None: unperturbed.
            frozen_from: examples from this index on do not train the word embeddings.

        Raises:
            UserError: if a pass did not use the word embeddings exactly once, or not with shape (B, L, H).
        """
        if delta is not None and not self._hooks:
            raise UserError(Problem("model.name", self._name, "it has no word embeddings to perturb", OTHER_MODEL))
        self._delta, self._frozen_from, self._ran = delta, frozen_from, 0
        try:
            yield
            if delta is not None and self._ran != len(self._hooks):
                raise UserError(Problem("model.name", self._name, f"a pass reads its word embeddings {self._ran} times: a "
                                        "perturbation would be added as often", OTHER_MODEL))  # fmt: skip
        finally:
            self._delta = self._frozen_from = None

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """A context in which a perturbed pass stores x and (x + delta) - x in the yielded list, in fp32, as rounded by the
        compute dtype."""
        seen: list[Tensor] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None


@torch.no_grad()
def check_perturbable(key: str, name: str, model: Any, inputs: Mapping[str, Tensor]) -> None:
    """Tries one perturbed pass on the CPU; weights may be placeholders.

    Args:
        key, name: the option that named the model, and its name.
        model, inputs: the classifier, and a short batch of one example.

    Raises:
        UserError: if the pass fails, or cannot be perturbed.
    """
    hook, training = EmbeddingPerturbation(model), model.training
    if tuple(inputs["input_ids"].shape) == (1, 1):  # which would not reveal swapped dimensions
        inputs = {name: value.repeat(2, 1) for name, value in inputs.items()}
    model.eval()
    try:
        with hook.applied(torch.zeros(*inputs["input_ids"].flatten(0, -2).shape, hook.width)):
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
