"""Checks that a model has an embedding for every token of its tokenizer, and finds the end tokens it needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from mat_ds.errors import Problem
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.stored import StoredExamples

# Examples tokenised at a time.
BATCH = 512
# Encoder-decoders whose classifier reads the last end token of the decoder; all examples of a batch need equally many.
READ_AT_END = ("bart", "bigbird_pegasus", "mbart", "mt5", "mvp", "plbart", "t5", "umt5")


def suit(tokenizer: Any, config: Any) -> None:
    """Makes a tokenizer omit token types that the model has no embeddings for: RoBERTa has only one type, and GPT-2 would add
    the word embeddings of tokens 0 and 1."""
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]


def rows_of(model: Any) -> int:
    """Number of tokens that have an embedding; sys.maxsize if the model has no embedding table."""
    try:
        return int(getattr(model.get_input_embeddings(), "num_embeddings", sys.maxsize))
    except NotImplementedError:  # a model that hashes characters
        return sys.maxsize


def end_of(model: Any) -> int | None:
    """The end token at which an encoder-decoder reads its answer; None for other models."""
    config = model.config
    end: int | None = config.eos_token_id if config.model_type in READ_AT_END else None
    return end


@lru_cache(maxsize=8)
def highest(tokenizer: Any) -> int:
    """The highest token number of a tokenizer; -1 if it is empty."""
    return max(tokenizer.get_vocab().values(), default=-1)


def token_type_problems(path: str | None, name: str, config: Any, splits: Iterable[Sequence[Example]]) -> Iterator[Problem]:
    """Yields a problem if stored examples contain token types that the model has no embeddings for.

    Args:
        path: folder of the stored examples.
        name, config: of the model.
    """
    types = getattr(config, "type_vocab_size", 0) or 0
    for examples in splits:
        if isinstance(examples, StoredExamples) and (found := examples.highest("token_type_ids")) >= types:
            reason = f"holds the token type {found}, but {name} has {types}"
            yield Problem("data.path", path, reason, f"run `mat-ds prepare {path}` again, with this model")
            return


def vocabulary_problems(
    key: str, name: str, model: Any, tokenizer: Any, splits: Iterable[Sequence[Example]], max_length: int, kind: Kind
) -> Iterator[Problem]:
    """Yields a problem if a text has a token without an embedding, or the wrong number of end tokens.

    Texts are only tokenised if the model and the tokenizer make either possible.

    Args:
        key, name: the option that named the model, and its name.
        model, tokenizer: to be checked.
        splits: the examples.
        max_length: maximum tokens of an input.
        kind: of the task.
    """
    rows, end = rows_of(model), end_of(model)
    if highest(tokenizer) < rows and end is None:
        return
    for examples in splits:
        for first in range(0, len(examples), BATCH):
            batch = [examples[i] for i in range(first, min(first + BATCH, len(examples)))]
            usual = _usual_ends(tokenizer, end, kind.texts_at_once)
            for example, ids in zip(batch, _ids(tokenizer, batch, max_length, kind), strict=True):
                text = " / ".join(example.texts)
                if (number := max(ids, default=0)) >= rows:
                    token = tokenizer.convert_ids_to_tokens(number)
                    reason = f"its tokenizer gives {token!r} the number {number}, the model has embeddings for {rows} tokens"
                    fix = "call model.resize_token_embeddings(len(tokenizer)) and save both, or use the model's own tokenizer"
                    yield Problem(key, name, f"{reason}; it is in {text[:80]!r}", fix)
                    return
                if problem := _end_problem(key, name, tokenizer, end, ids, usual, text):
                    yield problem
                    return


def _ids(tokenizer: Any, batch: Sequence[Example], max_length: int, kind: Kind) -> list[list[int]]:
    if all(example.tokens for example in batch):
        return [list(example.tokens["input_ids"]) for example in batch if example.tokens]
    return kind.tokens(tokenizer, batch, max_length)


def _usual_ends(tokenizer: Any, end: int | None, texts: int) -> int:
    """Number of end tokens that a tokenizer adds to an example."""
    return 0 if end is None else list(tokenizer(*["a"] * texts)["input_ids"]).count(end)


def _end_problem(key: str, name: str, tokenizer: Any, end: int | None, ids: list[int], usual: int, text: str) -> Problem | None:
    """The problem that an example has no end token, or another number than usual; None if there is none."""
    found = 0 if end is None else ids.count(end)
    if end is None or found == usual > 0:
        return None
    token = tokenizer.convert_ids_to_tokens(end)
    reads = f"it reads its answer at the end token {token!r}"
    if not usual:
        fix = "let the tokenizer's post-processor add it, and save it again"
        return Problem(key, name, f"{reads}, which its tokenizer does not add", fix)
    itself = f"but a text contains one itself, so that there are {found} of it where others have {usual}: {text[:80]!r}"
    return Problem(key, name, f"{reads}, {itself}", f"remove {token!r} from the text, or use another model")
