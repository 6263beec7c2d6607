"""The tokens of prompts and responses: what a causal language model reads, and what it is trained to write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

# In place of a token where a sample has fewer response tokens than another.
NONE = -100


class Tokens(NamedTuple):
    """The tokens of a sample, and for each whether it is the response's (1) or is only read (0)."""

    ids: list[int]
    marks: list[int]

    @property
    def targets(self) -> list[tuple[int, int]]:
        """(position of the logits that predict a token, token) of the response's tokens."""
        return [(i - 1, token) for i, (token, mark) in enumerate(zip(self.ids, self.marks, strict=True)) if mark]


def begin_of(tokenizer: Any) -> list[int]:
    """The token with which the tokenizer begins every text, if it does."""
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer("")["input_ids"][:1] == [begin] else []


def tokenised(tokenizer: Any, pieces: Iterable[tuple[str, bool]], begin: list[int], ends: bool) -> Tokens:
    """The tokens of texts that follow one another, each tokenised by itself: so that training reads a prompt as tokens that
    it is also answered from.

    Args:
        tokenizer: of the model.
        pieces: texts, and whether they are the response's.
        begin: tokens before all others.
        ends: whether the last piece is a response, which an end token is added to if it has none.
    """
    ids, marks = list(begin), [0] * len(begin)
    for text, answers in pieces:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, marks = ids + list(found), marks + [int(answers)] * len(found)
    if ends and not (ids and marks[-1] and ids[-1] == tokenizer.eos_token_id):
        ids, marks = [*ids, tokenizer.eos_token_id], [*marks, 1]
    return Tokens(ids, marks)


def fitted(tokens: Tokens, max_length: int) -> Tokens:
    """At most `max_length` tokens. What comes before the last response loses its beginning, all but one token if need be; then
    that response loses its end. The first token, which nothing precedes, is no target."""
    ids, marks = tokens
    read = len(marks)
    if marks[-1]:
        read = next((i + 1 for i in range(len(marks) - 1, -1, -1) if not marks[i]), 0)
    first = max(0, min(len(ids) - max_length, read - 1))
    ids, marks = ids[first:][:max_length], marks[first:][:max_length]
    return Tokens(ids, [0, *marks[1:]])
