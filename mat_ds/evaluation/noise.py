"""Text noise for evaluation: six kinds, each a pure function of text, rate and key.

The rate is the share of letters or words that are changed, as far as the text allows: a swap changes two, and equal neighbours
are not swapped. Places are changed in a random order that does not depend on the rate, so a higher rate changes everything that
a lower one does. Digits and punctuation are unchanged. Labels are kept, although dropping a word may make a sentence wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random

from mat_ds.sampling.keys import Part, seed_from
from mat_ds.tasks.characters import neighbour
from mat_ds.tasks.example import Example

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def character_swap(text: str, rate: float, random: Random) -> str:
    """Swaps letters with the next letter: "wrod"."""
    letters = list(text)
    pairs = [i for i, (a, b) in enumerate(pairwise(letters)) if a.isalpha() and b.isalpha() and a != b]
    for i in _disjoint_pairs(pairs, rate * len(_letters(text)) / 2, random):
        letters[i : i + 2] = letters[i + 1], letters[i]
    return "".join(letters)


def character_drop(text: str, rate: float, random: Random) -> str:
    """Drops letters: "wrd"."""
    letters = _letters(text)
    dropped = set(_first(letters, rate * len(letters), random))
    return "".join(c for i, c in enumerate(text) if i not in dropped)


def character_insert(text: str, rate: float, random: Random) -> str:
    """Inserts random letters after letters: "worqd"."""
    letters, typed = _letters(text), [random.choice(ALPHABET) for _ in text]
    chosen = set(_first(letters, rate * len(letters), random))
    return "".join(c + typed[i] if i in chosen else c for i, c in enumerate(text))


def keyboard(text: str, rate: float, random: Random) -> str:
    """Replaces letters by neighbours on the keyboard, keeping their case: "eord"."""
    letters, typed = _letters(text), [neighbour(c, random.random()) for c in text]
    reachable = [i for i in letters if typed[i] != text[i]]
    chosen = set(_first(reachable, rate * len(letters), random))
    return "".join(typed[i] if i in chosen else c for i, c in enumerate(text))


def word_drop(text: str, rate: float, random: Random) -> str:
    """Drops words, but never all of them."""
    words = text.split()
    dropped = set(_first(range(len(words)), rate * len(words), random))
    kept = [word for i, word in enumerate(words) if i not in dropped]
    return " ".join(kept or words[:1]) if dropped else text


def word_swap(text: str, rate: float, random: Random) -> str:
    """Swaps words with the next word."""
    parts = re.split(r"(\s+)", text)
    at = [i for i, part in enumerate(parts) if part and not part.isspace()]
    pairs = [n for n, (i, j) in enumerate(pairwise(at)) if parts[i] != parts[j]]
    for n in _disjoint_pairs(pairs, rate * len(at) / 2, random):
        parts[at[n]], parts[at[n + 1]] = parts[at[n + 1]], parts[at[n]]
    return "".join(parts)


NOISES: dict[str, Callable[[str, float, Random], str]] = {
    "character_swap": character_swap,
    "character_drop": character_drop,
    "character_insert": character_insert,
    "keyboard": keyboard,
    "word_drop": word_drop,
    "word_swap": word_swap,
}


def noised(example: Example, kind: str, rate: float, key: tuple[Part, ...], count: int | None = None) -> Example:
    """Adds noise to each text of an example, or to the first of them.

    Args:
        kind: one of `NOISES`.
        rate: share of letters or words to change.
        key: random key of the example.
        count: how many of its texts; None: all.
    """
    some = example.texts[:count]
    texts = [NOISES[kind](text, rate, Random(seed_from(*key, kind, number))) for number, text in enumerate(some)]
    return Example((*texts, *example.texts[len(some) :]), example.label)


def _letters(text: str) -> list[int]:
    """Positions of the letters in a text."""
    return [i for i, c in enumerate(text) if c.isalpha()]


def _first(places: Sequence[int], amount: float, random: Random) -> list[int]:
    """Randomly chosen places; `amount` is rounded up or down at random so that its mean is exact."""
    count = int(amount + random.random())
    return random.sample(places, len(places))[:count]


def _disjoint_pairs(places: Sequence[int], amount: float, random: Random) -> list[int]:
    """Randomly chosen disjoint pairs of neighbours, given by the first of each; `amount` as in `_first`."""
    count = int(amount + random.random())
    taken: set[int] = set()
    chosen: list[int] = []
    for place in random.sample(places, len(places)):
        if len(chosen) < count and not taken & {place, place + 1}:
            taken |= {place, place + 1}
            chosen.append(place)
    return chosen
