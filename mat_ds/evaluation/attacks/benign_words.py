"""Benign words before or after a text, which change nothing for a reader."""

from __future__ import annotations

from random import Random

from mat_ds.evaluation.attacks.base import Key, TextAttack, Verdict
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.example import Example

WORDS = ("thanks", "please", "hello", "today", "regards", "also", "ok", "well")


class BenignWords(TextAttack):
    """Tries one word at either end."""

    name = "benign_words"

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        words, text = Random(seed_from(*key)).sample(WORDS, len(WORDS)), self.text_of(example)
        tried = (self.with_text(example, changed) for word in words for changed in (f"{text} {word}", f"{word} {text}"))
        return self.worst_of(tried, example, before, self.options.max_queries - 1)
