"""Characters of words changed such that a reader still reads the text and the model, perhaps, something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from mat_ds.evaluation.attacks.base import Attacked, Key, TextAttack, Verdict
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.characters import CHANGES, THOROUGH, Change, with_words, with_words_changed, words_of
from mat_ds.tasks.example import Example

# Of a change with random places, how many are tried on a word.
DRAWS = 2
MIXED = "mixed"


@dataclass(frozen=True)
class Trail:
    """How far a search by some changes has come.

    Attributes:
        example: with the changed text.
        verdict: on it.
        words: the words that were changed, by their position in the text.
    """

    example: Example
    verdict: Verdict
    words: Mapping[int, str]


class Characters(TextAttack):
    """Each change of `THOROUGH` on all words at once. Then word by word, the most important first: for each change of
    `CHANGES` a search of its own, and if none broke the example one that takes any change for any word.

    A word is as important as the loss grows without it, and keeps the worst of its changes if that is worse than before: the
    search of DeepWordBug (Gao et al. 2018) and TextBugger (Li et al. 2019). A search changes at most `max_share` of the words.
    All changes are tried on every example, also after one has broken it, so that each one's share of broken examples stands
    for itself. The importance of words takes at most a third of the queries, the searches by one change half of the rest.
    """

    name = "characters"
    thorough: ClassVar[Mapping[str, Change]] = THOROUGH
    changes: ClassVar[Mapping[str, Change]] = CHANGES

    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        last = self.victim.queries + self.options.max_queries - 1

        def left() -> int:
            return last - self.victim.queries

        start, single = Trail(example, before, {}), {name: {name: change} for name, change in self.changes.items()}
        found = self._on_all_words(start, key, left())
        order = self.order(example, key, left() // 3)
        alone = self.word_by_word(start, order, single, key, left() // 2 if len(single) > 1 else left())
        if len(single) > 1 and all(trail.verdict.right for trail in alone.values()):
            alone |= self.word_by_word(start, order, {MIXED: self.changes}, key, left())
        found |= alone
        self.notes = {"broken_by": [name for name, trail in found.items() if not trail.verdict.right]}
        # Of texts that break the model, one with few changed words says more than one with all.
        worst = min([start, *found.values()], key=_badness)
        return worst.example, worst.verdict

    def figures(self, found: Sequence[Attacked]) -> dict[str, Any]:
        """`by_change`: for each search, the share of the right answers that it broke; None if no answer was right."""
        right = [one for one in found if one.before.right]
        names = [*(f"{name}_all" for name in self.thorough), *self.changes, *([MIXED] if len(self.changes) > 1 else [])]
        broken = {name: sum(name in one.notes["broken_by"] for one in right) for name in names}
        return {"by_change": {name: count / len(right) if right else None for name, count in broken.items()}}

    def _on_all_words(self, start: Trail, key: Key, budget: int) -> dict[str, Trail]:
        """Each thorough change on all words."""
        text = self.text_of(start.example)
        found: dict[str, Example] = {}
        for name, change in self.thorough.items():
            changed = with_words_changed(text, change, Random(seed_from(*key, name)))
            if changed != text and len(found) < budget:
                found[f"{name}_all"] = self.with_text(start.example, changed)
        verdicts, words = self.victim.judge(list(found.values())), dict.fromkeys(range(len(words_of(text))), "")
        return {name: Trail(found[name], verdict, words) for name, verdict in zip(found, verdicts, strict=True)}

    def order(self, example: Example, key: Key, budget: int) -> list[int]:
        """The words, most important first; of a longer text than the budget allows, randomly chosen ones before the others."""
        text = self.text_of(example)
        spans = words_of(text)
        asked = Random(seed_from(*key, "order")).sample(range(len(spans)), max(0, min(len(spans), budget)))
        without = [self.with_text(example, text[: spans[i][0]] + text[spans[i][1] :].lstrip()) for i in asked]
        verdicts = dict(zip(asked, self.victim.judge(without), strict=True))
        ranked = sorted(verdicts, key=lambda i: (verdicts[i].right, -verdicts[i].loss, i))
        return [*ranked, *(i for i in range(len(spans)) if i not in verdicts)]

    def word_by_word(
        self, start: Trail, order: Sequence[int], searches: Mapping[str, Mapping[str, Change]], key: Key, budget: int
    ) -> dict[str, Trail]:
        """A greedy search for each set of changes, all in step, so that they share the passes and the budget."""
        found, most = dict.fromkeys(searches, start), max(1, int(self.options.max_share * len(order)))
        text = self.text_of(start.example)
        spans = words_of(text)
        for number in order:
            word = text[slice(*spans[number])]
            tried = [
                (name, self._with(start, {**trail.words, number: variant}))
                for name, trail in found.items()
                if trail.verdict.right and len(trail.words) < most
                for variant in _variants(word, searches[name], (*key, number))
            ][: max(0, budget)]
            budget -= len(tried)
            verdicts = self.victim.judge([example for _, (example, _) in tried])
            for (name, (example, words)), verdict in zip(tried, verdicts, strict=True):
                if verdict.worse_than(found[name].verdict):
                    found[name] = Trail(example, verdict, words)
        return found

    def _with(self, start: Trail, words: Mapping[int, str]) -> tuple[Example, Mapping[int, str]]:
        return self.with_text(start.example, with_words(self.text_of(start.example), words)), words


def _variants(word: str, changes: Mapping[str, Change], key: Key) -> list[str]:
    """What some changes make of a word, each once."""
    made = [change(word, Random(seed_from(*key, name, draw))) for name, change in changes.items() for draw in range(DRAWS)]
    return [variant for variant in dict.fromkeys(made) if variant != word]


def _badness(trail: Trail) -> tuple[bool, int, float]:
    """For sorting, the worst first: broken by few words, then by many, then the greatest loss."""
    right = trail.verdict.right
    return (right, 0 if right else len(trail.words), -trail.verdict.loss)
