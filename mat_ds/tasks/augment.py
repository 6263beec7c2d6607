"""Augmentation in training: changed texts that keep their labels, drawn anew in each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.section import Section
from mat_ds.sampling.keys import Part, seed_from
from mat_ds.tasks.benign_words import with_benign_words
from mat_ds.tasks.characters import CHANGES, with_words_changed, words_of
from mat_ds.tasks.example import Example

BENIGN = "benign_words"
KINDS = (*CHANGES, BENIGN)
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class AugmentConfig(Section):
    share: Share = Field(
        0.5, description="share of the examples whose texts are changed, each drawn on its own in each epoch; the rest stay"
    )
    kinds: Annotated[tuple[Literal[KINDS], ...], Field(strict=False, min_length=1)] = Field(  # type: ignore[valid-type]
        tuple(CHANGES),
        description="what is done to them, of which an example has one, drawn too: changes of characters, or benign_words, one "
        "to three words or phrases at either end",
    )
    words: Share = Field(0.2, description="share of the words of a text whose characters are changed, at least one")

    @property
    def description(self) -> str:
        """What is done, for the user."""
        return f"{self.share:.0%} of them changed in each epoch, {self.words:.0%} of their words: {', '.join(self.kinds)}"


def augmented(example: Example, options: AugmentConfig, texts: int | None, key: Sequence[Part]) -> Example:
    """An example as one epoch shows it: itself, or with changed texts and no prepared tokens.

    Args:
        example: of any kind of task whose label says nothing about characters of the texts that are changed.
        options: how many are changed, and how.
        texts: how many of its texts may be changed, the first of them; None: all.
        key: of all that is drawn for it, such as (seed, epoch, row).
    """
    random = Random(seed_from(*key))
    if random.random() >= options.share:
        return example
    kind = random.choice(options.kinds)
    some = example.texts[:texts]
    changed = [_text_changed(text, kind, options.words, Random(seed_from(*key, number))) for number, text in enumerate(some)]
    return replace(example, texts=(*changed, *example.texts[len(some) :]), tokens=None)


def _text_changed(text: str, kind: str, share: float, random: Random) -> str:
    if kind == BENIGN:
        return with_benign_words(text, random)
    words = range(len(words_of(text)))
    chosen = random.sample(words, min(len(words), max(1, round(share * len(words)))))
    return with_words_changed(text, CHANGES[kind], random, chosen)
