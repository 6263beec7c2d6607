"""The words that are single tokens of a tokenizer, and which of them are near each other in a model's word embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mat_ds.evaluation.attacks.words import Word

# Neighbours of a word that are looked at; further ones are below any sensible bound.
NEAREST = 50


class WordTable:
    """Words of small letters that a tokenizer reads as one token in the midst of a text.

    Args:
        tokenizer: a fast one.
        table: word embeddings, (V, H).

    Attributes:
        words: sorted, so that their numbers are the same everywhere.
        tokens: the token of each, (W,).
    """

    def __init__(self, tokenizer: Any, table: Tensor):
        numbers = range(min(len(tokenizer), len(table)))
        pieces = tokenizer.backend_tokenizer.decode_batch([[number] for number in numbers], skip_special_tokens=True)
        texts = sorted({word for piece in pieces if (word := piece.strip()).isalpha() and word.islower() and len(word) > 1})
        known = _single_tokens(tokenizer, texts)
        self.words, self.tokens = list(known), torch.tensor(list(known.values()), dtype=torch.long, device=table.device)
        self._numbers = {word: number for number, word in enumerate(self.words)}
        self._table, self._units = table, normalize(table[self.tokens].float(), dim=-1)
        self._near: dict[tuple[str, float], list[str]] = {}

    def near(self, word: str, least: float) -> list[str]:
        """The words whose cosine with a word is at least `least`, nearest first; none for a word of several tokens."""
        if word not in self._numbers:
            return []
        if (word, least) not in self._near:
            cosines = self._units @ self._units[self._numbers[word]]
            values, numbers = cosines.topk(min(NEAREST + 1, len(cosines)))
            pairs = zip(numbers.tolist(), values.tolist(), strict=True)
            self._near[word, least] = [self.words[i] for i, value in pairs if value >= least and self.words[i] != word]
        return self._near[word, least]

    def near_any(self, words: Iterable[str], least: float) -> set[str]:
        """The words whose cosine with any of some words is at least `least`; words of several tokens have none near."""
        some = [self._numbers[word] for word in sorted(words) if word in self]
        if not some:
            return set()
        nearest = (self._units @ self._units[some].T).amax(1)
        return {self.words[i] for i in (nearest >= least).nonzero()[:, 0].tolist()}

    def vectors(self, words: Sequence[str]) -> Tensor:
        """The word embeddings of some of the words, (N, H) in fp32."""
        found = self.tokens[[self._numbers[word] for word in words]]
        return self._table[found].float()

    def best(self, scores: Tensor, count: int) -> list[str]:
        """The words with the greatest scores, given one for each, (W,)."""
        return [self.words[i] for i in scores.topk(min(count, len(scores))).indices.tolist()]

    def cosine(self, one: str, other: str) -> float:
        """Of two of the words."""
        return float(self._units[self._numbers[one]] @ self._units[self._numbers[other]])

    def __contains__(self, word: str) -> bool:
        return word in self._numbers


def _single_tokens(tokenizer: Any, texts: Sequence[str]) -> dict[str, int]:
    """The token of each text that is one token between two words."""
    if not texts:
        return {}
    read = tokenizer([f"a {text} a" for text in texts], add_special_tokens=False, return_offsets_mapping=True)
    found = {}
    for text, tokens, offsets in zip(texts, read["input_ids"], read["offset_mapping"], strict=True):
        carrier = f"a {text} a"
        if (place := word_tokens([Word(text, 2, 2 + len(text))], carrier, offsets)) and len(place[0]) == 1:
            found[text] = tokens[place[0][0]]
    return found


def word_tokens(words: Sequence[Word], text: str, offsets: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    """Which tokens make up each word, by its number; words that share a token with what is around them, or were cut off, have
    none.

    Args:
        words: of the text.
        offsets: where each token begins and ends in the text; (0, 0) for one that is not of it. White space at the ends of a
            token does not count.
    """
    owner = {place: number for number, word in enumerate(words) for place in range(word.start, word.end)}
    found: dict[int | None, list[int]] = {}
    reached: dict[int | None, int] = {}
    shared: set[int | None] = {None}
    begun = 0
    for token, (first, last) in enumerate(offsets):
        piece = text[first:last]
        first, last = first + len(piece) - len(piece.lstrip()), last - (len(piece) - len(piece.rstrip()))
        owners = {owner.get(place) for place in range(first, last)}
        shared |= owners if len(owners) > 1 else set()
        for number in owners:
            found.setdefault(number, []).append(token)
            reached[number], begun = last, first
    # A normaliser that adds characters shifts the ends of tokens; a word was not cut off, either, if tokens follow it.
    return {
        number: tokens
        for number, tokens in found.items()
        if number is not None and number not in shared and max(reached[number], begun) >= words[number].end
    }
