"""The words of a row, where they are among tokens, and the spans that tags of words stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from mat_ds.tasks.example import BLANK, MISSING, BadRow, excerpt, text_fault
from mat_ds.tasks.lists import FORM, list_of

# A tag in BIO form, or in one with single and last words too: B-PER, I-PER, E-PER, S-PER, O.
TAG = re.compile(r"O|[BIES]-.+")
OUTSIDE = "O"


def joined(words: Sequence[str]) -> str:
    """The text that words make."""
    return " ".join(words)


def words_in(column: str, value: Any) -> tuple[str, ...] | BadRow:
    """The words in a value, which is a list of them or a text that is split at blanks; or the first fault found."""
    if (words := list_of(value)) is None:
        if not isinstance(value, str):
            return BadRow(MISSING, excerpt(value), f"{column} is neither {FORM}; nor a text, to be split at blanks")
        words = value.split()
    for number, word in enumerate(words, start=1):
        where = f"word {number} of {len(words)} in {column}"
        if fault := text_fault(where, word):
            return fault
        if not word.strip():
            return BadRow(BLANK, excerpt(word), f"{where} is blank")
    return text_fault(column, joined(words)) or (tuple(words) if words else BadRow(BLANK, excerpt(value), f"{column} is blank"))


@lru_cache(maxsize=8)
def lead_of(tokenizer: Any) -> str:
    """What goes before every word but the first, so that a list of words gives the tokens that its text gives: a blank for
    tokenizers in whose tokens words begin with it (byte-level ones, as RoBERTa's), nothing for others."""
    text, plain, led = (
        tokenizer(given, is_split_into_words=isinstance(given, list), add_special_tokens=False)["input_ids"]
        for given in ("a a", ["a", "a"], ["a", " a"])
    )
    return " " if plain != text == led else ""


def word_starts(words: Iterable[int | None]) -> list[int]:
    """Which tokens are the first of a word: the word's number, counted from 1, on its first token, and 0 on all others.

    Args:
        words: the number of each token's word, counted from 0; None for special tokens.
    """
    found, seen = [], set[int | None]([None])
    for word in words:
        found.append(0 if word in seen or word is None else word + 1)
        seen.add(word)
    return found


def is_bio(labels: Sequence[str]) -> bool:
    """Whether labels are tags of spans."""
    return OUTSIDE in labels and any(label.startswith("B-") for label in labels) and all(map(TAG.fullmatch, labels))


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans of tags in BIO form, as CoNLL's evaluation reads them: (type, first word, word after the last).

    A span begins at B and S, and wherever a tag does not continue the one before: after O, after another type, after E or S.
    """
    found: list[tuple[str, int, int]] = []
    before = OUTSIDE
    for number, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        begins = tag != OUTSIDE and (prefix in "BS" or before[:1] in "ESO" or before.partition("-")[2] != kind)
        if begins:
            found.append((kind, number, number + 1))
        elif tag != OUTSIDE:
            found[-1] = (kind, found[-1][1], number + 1)
        before = tag
    return found


def entities(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """The spans of tags in BIO form as answers, with their words."""
    return [{"type": kind, "start": first, "end": end, "text": joined(words[first:end])} for kind, first, end in spans(tags)]
