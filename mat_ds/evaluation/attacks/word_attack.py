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
        self._known = dict[Example, dict[int, list[str]]]()
        without = sum(not self.substitutes(example) for example in examples)
        return {"candidates": {"from": self.source, "words": len(self.table.words), "examples_without": without}}

    def substitutes(self, example: Example) -> dict[int, list[str]]:
        """What may take the place of each word of the text, by its number, the best first; words without any are left out."""
        if example not in self._known:
            text, words = self.text_of(example), split_words(self.text_of(example))
            self._known[example] = {
                i: fitting
                for i, some in self.candidates(example).items()
                if (fitting := [new for new in some if may_replace(words[i].lower, new) and agrees(text, words[i], new)])
            }
        return self._known[example]

    def candidates(self, example: Example) -> dict[int, list[str]]:
        """Words that are near enough to each word that may be changed, by its number, the best first."""
        text = self.text_of(example)
        words = split_words(text)
        return {i: self.table.near(words[i].lower, self.options.min_similarity) for i in changeable(text)}

    def with_word(self, example: Example, number: int, new: str) -> Example:
        """The example with another word in place of one."""
        text = self.text_of(example)
        return self.with_text(example, replaced(text, split_words(text)[number], new))

    def tokens_of_words(self, example: Example) -> Mapping[int, list[int]]:
        """Which tokens of the model's input make up each word of the text, by its number."""
        text = self.text_of(example)
        return word_tokens(split_words(text), text, self.victim.offsets(example, self.column))
