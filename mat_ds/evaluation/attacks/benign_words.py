"""Benign words before or after a text, which change nothing for a reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from mat_ds.evaluation.attacks.base import Attacked, Key, TextAttack, Verdict
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.benign_words import WORDS
from mat_ds.tasks.example import Example

SIDES = ("before", "after")


class BenignWords(TextAttack):
    """Adds a word or short phrase of `WORDS` at either end, each time the one that makes the loss greatest, until the model is
    wrong or `max_added` are added. Each addition may take its share of the queries."""

    name = "benign_words"

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        worst, verdict, last = example, before, self.victim.queries + self.options.max_queries - 1
        added: list[tuple[str, str]] = []
        for number in range(self.options.max_added):
            longer = self._longer(self.text_of(worst), (*key, number))
            share = (last - self.victim.queries) // (self.options.max_added - number)
            tried = (self.with_text(example, text) for text in longer)
            found, verdict = self.worst_of(tried, worst, verdict, share)
            if found is worst:  # no word makes it worse
                break
            worst = found
            added.append(longer[self.text_of(worst)])
            if not verdict.right:
                break
        self.notes = {side: [word for where, word in added if where == side] for side in SIDES}
        return worst, verdict

    def figures(self, found: Sequence[Attacked]) -> dict[str, Any]:
        """`by_added`: the share of the right answers that at most one, two, ... words broke; None if no answer was right.
        `words`: how many of the broken texts have each word before and after."""
        right = [one for one in found if one.before.right]
        broken = [one.notes for one in right if one.broken]
        needed = [sum(len(notes[side]) for side in SIDES) for notes in broken]
        shares = {
            str(most): sum(count <= most for count in needed) / len(right) if right else None
            for most in range(1, self.options.max_added + 1)
        }
        return {
            "by_added": shares,
            "words": {
                side: dict(Counter(word for notes in broken for word in dict.fromkeys(notes[side])).most_common())
                for side in SIDES
            },
        }

    def _longer(self, text: str, key: Key) -> dict[str, tuple[str, str]]:
        """The text with a word at either end, in random order, and with each where it stands."""
        words = Random(seed_from(*key)).sample(WORDS, len(WORDS))
        return {
            longer: (side, word)
            for word in words
            for side, longer in zip(SIDES, (f"{word} {text}", f"{text} {word}"), strict=True)
        }
