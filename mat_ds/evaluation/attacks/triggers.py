"""Universal adversarial triggers (Wallace et al. 2019, https://arxiv.org/abs/1908.07125): words before any text of a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from torch import Tensor

from mat_ds.evaluation.attacks.base import Key, Verdict
from mat_ds.evaluation.attacks.english import NEGATIONS, OPPOSED
from mat_ds.evaluation.attacks.word_attack import WordAttack
from mat_ds.evaluation.attacks.word_table import WordTable
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.example import Example

# Words of a trigger; words that are tried in each place; examples that a trigger is found on.
WORDS, TRIED, MOST = 3, 20, 32
# A label with fewer right answers among the examples that triggers are found on has the trigger of all labels.
FEWEST = 4
# What a trigger for every label is called.
ALL = "all labels"


@dataclass(frozen=True)
class Found:
    """A trigger, as a text, and what was asked to find it: of how many examples, in how many queries."""

    trigger: str
    examples: int
    queries: int


class Triggers(WordAttack):
    """Puts the same three words before every text of a label.

    They are found on one half of the examples, drawn by the key, for each label: the words that raise its loss most, without a
    target. Words that could themselves change a text's label take no part as far as lists know them: negations, what has
    opposites, and what is near that in the word embeddings.
    """

    name = "triggers"

    def prepare(self, examples: Sequence[Example], key: Key) -> dict[str, Any]:
        """Finds the triggers, on rank 0, and says how many of the other half of the examples they break."""
        self._found, held_out = on_rank_zero(lambda: self._prepared(examples, key))
        told = {label: vars(found) for label, found in self._found.items()}
        return {"triggers": told, "held_out": held_out}

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        tried = self._triggered([example])
        return self.worst_of(tried, example, before, self.options.max_queries - 1)

    def label_of(self, example: Example) -> str:
        """What the trigger of an example is called: its label if that is one class."""
        return str(self.victim.kind.gold_of(example)) if isinstance(example.label, int) else ALL

    def _prepared(self, examples: Sequence[Example], key: Key) -> tuple[dict[str, Found], dict[str, Any]]:
        self.table = WordTable(self.victim.tokenizer, self.victim.word_vectors)
        judging = NEGATIONS | self.table.near_any(OPPOSED, self.options.min_similarity)
        self._usable = [word for word in self.table.words if word not in judging]
        order = Random(seed_from(*key, "half")).sample(range(len(examples)), len(examples))
        half, others = ([examples[i] for i in part] for part in (order[: -(-len(order) // 2)], order[-(-len(order) // 2) :]))
        self._found = self._triggers_of(self._right(half))
        right = self._right(others)
        broken = sum(not verdict.right for verdict in self.victim.judge(self._triggered(right)))
        rate = broken / len(right) if right else None
        return self._found, {"examples": len(others), "right": len(right), "broken": broken, "flip_rate": rate}

    def _right(self, examples: Sequence[Example]) -> list[Example]:
        verdicts = self.victim.judge(examples)
        return [example for example, verdict in zip(examples, verdicts, strict=True) if verdict.right]

    def _triggers_of(self, right: Sequence[Example]) -> dict[str, Found]:
        """A trigger for each label that has enough of some examples, and one for all labels if others have too few."""
        by_label: dict[str, list[Example]] = {}
        for example in right:
            by_label.setdefault(self.label_of(example), []).append(example)
        known = {label for label, some in by_label.items() if len(some) >= FEWEST}
        groups = {label: by_label[label] for label in sorted(known)}
        if right and (known < by_label.keys() or len(known) < self.victim.kind.outputs):
            groups[ALL] = list(right)
        return {label: self._find(some[:MOST]) for label, some in groups.items()}

    def _triggered(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with their triggers; those without one are left out."""
        pairs = [(example, self._found.get(self.label_of(example), self._found.get(ALL))) for example in examples]
        return [self._with_trigger(example, found.trigger.split()) for example, found in pairs if found]

    def _with_trigger(self, example: Example, words: Sequence[str]) -> Example:
        return self.with_text(example, " ".join((*words, self.text_of(example))))

    def _find(self, examples: Sequence[Example]) -> Found:
        """Replaces one word of the trigger after another by the best of those that the gradient ranks highest, until a round
        changes nothing or all queries are used up, as many as an attack on each example may ask."""
        first, most = self.victim.queries, self.options.max_queries * len(examples)

        def affords(passes: int) -> bool:
            return self.victim.queries - first + passes * len(examples) <= most

        words = ["the" if "the" in self.table else self._usable[0]] * WORDS
        worst, changed = self._harm(examples, words), True
        while changed:
            changed = False
            for place in range(WORDS):
                for word in self._ranked(examples, words, place) if affords(2) else ():
                    tried = [*words[:place], word, *words[place + 1 :]]
                    if affords(1) and (harm := self._harm(examples, tried)) > worst:
                        worst, words, changed = harm, tried, True
        return Found(" ".join(words), len(examples), self.victim.queries - first)

    def _harm(self, examples: Sequence[Example], words: Sequence[str]) -> tuple[int, float]:
        """How many examples a trigger breaks, and the sum of their losses."""
        verdicts = self.victim.judge([self._with_trigger(example, words) for example in examples])
        return sum(not one.right for one in verdicts), sum(one.loss for one in verdicts)

    def _ranked(self, examples: Sequence[Example], words: Sequence[str], place: int) -> list[str]:
        """The words that raise the loss most in first order in a place of a trigger, over all examples."""
        total: Tensor | float = 0.0
        triggered = [self._with_trigger(example, words) for example in examples]
        for first in range(0, len(triggered), self.victim.batch_size):
            some = triggered[first : first + self.victim.batch_size]
            gradients = self.victim.gradients(some)[1].double()
            for example, gradient in zip(some, gradients, strict=True):
                tokens = self.tokens_of_words(example).get(place, [])
                total = total + gradient[tokens].sum(0)
        assert isinstance(total, Tensor)
        gains = self.table.vectors(self._usable) @ total.float()
        return [self._usable[i] for i in gains.topk(min(TRIED, len(gains))).indices.tolist()]
