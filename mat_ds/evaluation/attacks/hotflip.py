"""HotFlip (Ebrahimi et al. 2018, https://arxiv.org/abs/1712.06751), section 5: words replaced where the gradient says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mat_ds.evaluation.attacks.base import Key, Verdict
from mat_ds.evaluation.attacks.word_attack import WordAttack
from mat_ds.evaluation.attacks.words import most_changes, split_words
from mat_ds.tasks.example import Example


class HotFlip(WordAttack):
    """Replaces one word after another, each time the one that raises the loss most of those that the first order ranks highest.

    A replacement of word i by w is expected to raise the loss by g_i . (e_w - e_i), with g_i its gradient at the embedding e_i
    (equation 4 of the paper, for words). The best ranked are tried by queries, equally many for each word that may still be
    replaced.
    """

    name = "hotflip"

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        worst, verdict, victim = example, before, self.victim
        left, rest = dict(self.substitutes(example)), self.options.max_queries - 1
        for changes in range(most_changes(split_words(self.text_of(example)), self.options.max_share), 0, -1):
            if not left or not verdict.right or rest < 2:
                break
            ranked, asked = self.ranked(worst, left), victim.queries
            where = {self.with_word(worst, number, new): number for number, new in ranked}
            found, verdict = self.worst_of(where, worst, verdict, max(1, (rest - 1) // changes))
            rest -= 1 + victim.queries - asked
            if found == worst:
                break
            worst = found
            del left[where[found]]
        return worst, verdict

    def ranked(self, example: Example, substitutes: Mapping[int, Sequence[str]]) -> list[tuple[int, str]]:
        """All replacements of one word that is one token, the one that raises the loss most in first order first."""
        inputs, gradients = self.victim.gradients([example])
        places = {number: tokens[0] for number, tokens in self.tokens_of_words(example).items() if len(tokens) == 1}
        gains: list[tuple[float, int, str]] = []
        for number in substitutes.keys() & places.keys():
            place, words = places[number], substitutes[number]
            old = self.victim.word_vectors[inputs["input_ids"][0, place]].float()
            found = (self.table.vectors(words) - old) @ gradients[0, place]
            gains += [(-gain, number, word) for gain, word in zip(found.tolist(), words, strict=True)]
        return [(number, word) for _, number, word in sorted(gains)]
