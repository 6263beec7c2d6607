"""Whether a model has an embedding for everything that its tokenizer makes of a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mat_ds.errors import Problem
from mat_ds.tasks.loader import tokenise
from mat_ds.tasks.rows import Example

# Examples tokenised at a time.
BATCH = 512


def suit(tokenizer: Any, config: Any) -> None:
    """Makes a tokenizer leave out what the model has no embeddings for: RoBERTa has one type of token only, GPT-2 would add
    the word embeddings of a 0 and a 1."""
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]


def rows_of(model: Any) -> int:
    """How many tokens have an embedding; no end to them where there is no table of them."""
    return int(getattr(model.get_input_embeddings(), "num_embeddings", sys.maxsize))


def highest(tokenizer: Any) -> int:
    """The highest number that a tokenizer gives a token."""
    return max(tokenizer.get_vocab().values(), default=-1)


def vocabulary_problems(
    key: str, name: str, model: Any, tokenizer: Any, splits: Iterable[Sequence[Example]], max_length: int
) -> Iterator[Problem]:
    """Whether some text has a token without an embedding. Texts are looked at only where the tokenizer knows such tokens.

    Args:
        key, name: what named the model, and its name.
        model, tokenizer: the model's.
        splits: the examples.
        max_length: tokens an input is cut at.
    """
    rows = rows_of(model)
    if highest(tokenizer) < rows:
        return
    for examples in splits:
        for first in range(0, len(examples), BATCH):
            batch = [examples[i] for i in range(first, min(first + BATCH, len(examples)))]
            for example, ids in zip(batch, _ids(tokenizer, batch, max_length), strict=True):
                if max(ids, default=0) >= rows:
                    yield _problem(key, name, tokenizer, max(ids), rows, " / ".join(example.texts))
                    return


def input_problems(key: str, name: str, model: Any, tokenizer: Any, inputs: Mapping[str, Tensor]) -> Iterator[Problem]:
    """Whether a batch has a token without an embedding."""
    rows, found = rows_of(model), inputs["input_ids"]
    if found.numel() and int(found.max()) >= rows:
        row = found[found.amax(1).argmax()]
        yield _problem(key, name, tokenizer, int(found.max()), rows, tokenizer.decode(row, skip_special_tokens=False))


def _ids(tokenizer: Any, batch: Sequence[Example], max_length: int) -> list[list[int]]:
    if all(example.tokens for example in batch):
        return [list(example.tokens["input_ids"]) for example in batch if example.tokens]
    found: list[list[int]] = tokenise(tokenizer, batch, max_length)["input_ids"]
    return found


def _problem(key: str, name: str, tokenizer: Any, number: int, rows: int, text: str) -> Problem:
    token = tokenizer.convert_ids_to_tokens(number)
    return Problem(key, name, f"its tokenizer gives {token!r} the number {number}, and the model has embeddings for {rows} "
                   f"tokens; it is in {text[:80]!r}",
                   "call model.resize_token_embeddings(len(tokenizer)) and save both, or take the tokenizer that the model was "
                   "trained with")  # fmt: skip
