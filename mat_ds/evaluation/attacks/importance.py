"""Words replaced in the order of their importance, as TextFooler (Jin et al. 2020, https://arxiv.org/abs/1907.11932) and
BERT-Attack (Li et al. 2020, https://arxiv.org/abs/2004.09984) do: the model's answers are asked for, its gradient is not."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from mat_ds.evaluation.attacks.base import Key, Verdict
from mat_ds.evaluation.attacks.word_attack import WordAttack
from mat_ds.evaluation.attacks.words import changeable, most_changes, split_words, without_word
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.example import Example

# Words of the masked head that are looked at, BERT-Attack's K.
LIKELY = 48


class Importance(WordAttack):
    """Replaces words greedily, beginning with the one without which the loss is greatest.

    If the model that this one was fine-tuned from is at hand and has a head for masked words, its likeliest words in the place
    of a word are candidates, the word itself being shown to it, as in BERT-Attack; else the neighbours of the word. Either way
    they are near the word in the word embeddings: similar hidden states of the attacked model, which is what published attacks
    bound, would be those that lead to the same answer.
    """

    name = "importance"

    def prepare(self, examples: Sequence[Example], key: Key) -> dict[str, Any]:
        if self.victim.has_masked_head:
            self.source = "the head for masked words of the model it was fine-tuned from"
        return super().prepare(examples, key)

    def candidates(self, example: Example) -> dict[int, list[str]]:
        if not self.victim.has_masked_head:
            return super().candidates(example)
        text, table, found = self.text_of(example), self.table, {}
        places, words = self.tokens_of_words(example), split_words(text)
        logits = self.victim.masked_logits(example)
        for i in changeable(text):
            if len(places.get(i, ())) == 1 and words[i].lower in table:
                likely = table.best(logits[places[i][0]][table.tokens], LIKELY)
                least = self.options.min_similarity
                found[i] = [new for new in likely if table.cosine(words[i].lower, new) >= least]
        return found

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        worst, verdict, victim = example, before, self.victim
        left, rest = self.substitutes(example), self.options.max_queries - 1
        # No more than half of the queries ask which words are important.
        asked_about = Random(seed_from(*key)).sample(sorted(left), min(len(left), rest // 2))
        verdicts = victim.judge([self.with_text(example, without_word(self.text_of(example), i)) for i in asked_about])
        order = sorted(zip(asked_about, verdicts, strict=True), key=lambda pair: (pair[1].right, -pair[1].loss, pair[0]))
        rest -= len(order)
        changes = most_changes(split_words(self.text_of(example)), self.options.max_share)
        for number, _ in order:
            if not changes or not verdict.right or not rest:
                break
            asked, tried = victim.queries, (self.with_word(worst, number, new) for new in left[number])
            found, verdict = self.worst_of(tried, worst, verdict, rest)
            rest -= victim.queries - asked
            changes -= found != worst
            worst = found
        return worst, verdict
