"""What attacks that put words in place of words have in common: which words may take the place of which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mat_ds.evaluation.attacks.base import Key, TextAttack
from mat_ds.evaluation.attacks.english import may_replace
from mat_ds.evaluation.attacks.word_table import WordTable, word_tokens
from mat_ds.evaluation.attacks.words import agrees, changeable, replaced, split_words
from mat_ds.tasks.example import Example


class WordAttack(TextAttack):
    """Replaces words by near ones."""

    source = "the model's word embeddings"

    def prepare(self, examples: Sequence[Example], key: Key) -> dict[str, Any]:
        """Reads the words of the vocabulary. An example without a word that may be replaced counts as robust, so the report
        says how many there are."""
        self.table = WordTable(self.victim.tokenizer, self.victim.word_vectors)
        without = sum(not self.substitutes(example) for example in examples)
        return {"candidates": {"from": self.source, "words": len(self.table.words), "examples_without": without}}

    def substitutes(self, example: Example) -> dict[int, list[str]]:
        """What may take the place of each word of the text, by its number, the best first; words without any are left out."""
        text, least = self.text_of(example), self.options.min_similarity
        words = split_words(text)
        near = {i: self.table.near(words[i].lower, least) for i in changeable(text)}
        found = {i: self.fitting(text, i, some) for i, some in near.items()}
        return {i: some for i, some in found.items() if some}

    def fitting(self, text: str, number: int, candidates: Sequence[str]) -> list[str]:
        """Those of some candidates that may replace a word of a text."""
        word = split_words(text)[number]
        return [new for new in candidates if may_replace(word.lower, new) and agrees(text, word, new)]

    def with_word(self, example: Example, number: int, new: str) -> Example:
        """The example with another word in place of one."""
        text = self.text_of(example)
        return self.with_text(example, replaced(text, split_words(text)[number], new))

    def tokens_of_words(self, example: Example) -> Mapping[int, list[int]]:
        """Which tokens of the model's input make up each word of the text, by its number."""
        text = self.text_of(example)
        return word_tokens(split_words(text), text, self.victim.offsets(example, self.column))
