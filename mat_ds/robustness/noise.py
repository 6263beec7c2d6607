"""Misspelt and mangled texts: six kinds of noise, each a pure function of a text, a rate and a key.

Each letter or word draws its own chance, which does not depend on the rate: what a rate changes, a higher one changes too
(but for swaps that overlap), and nothing depends on ranks or batches. Digits and punctuation stay as they are. Labels are
not checked: a word dropped can make an acceptable sentence unacceptable.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from mat_ds.sampling.keys import Part, seed_from
from mat_ds.tasks.rows import Example

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
# The letters around each on a QWERTY keyboard.
NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj", "i": "uojk", "o": "ipkl",
    "p": "ol", "a": "qwsz", "s": "awedzx", "d": "serfxc", "f": "drtgcv", "g": "ftyhvb", "h": "gyujbn", "j": "huiknm",
    "k": "jiolm", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip

# (chance that decides whether, chance that decides which)
Draws = list[tuple[float, float]]


def character_swap(text: str, rate: float, draws: Draws) -> str:
    """Letters change places with the letter behind them: "wrod"."""
    letters = list(text)
    i = 0
    while i < len(letters) - 1:
        if draws[i][0] < rate and letters[i].isalpha() and letters[i + 1].isalpha():
            letters[i : i + 2] = letters[i + 1], letters[i]
            i += 1  # a letter moves once
        i += 1
    return "".join(letters)


def character_drop(text: str, rate: float, draws: Draws) -> str:
    """Letters are left out: "wrd"."""
    return "".join(c for c, (whether, _) in zip(text, draws, strict=True) if not (whether < rate and c.isalpha()))


def character_insert(text: str, rate: float, draws: Draws) -> str:
    """Letters are followed by a random one: "worqd"."""
    return "".join(
        c + (_pick(ALPHABET, which) if whether < rate and c.isalpha() else "")
        for c, (whether, which) in zip(text, draws, strict=True)
    )


def keyboard(text: str, rate: float, draws: Draws) -> str:
    """Letters are mistyped as their neighbours on the keyboard, capitals as capitals: "eord"."""

    def typed(c: str, whether: float, which: float) -> str:
        near = NEIGHBOURS.get(c.lower())
        if whether >= rate or near is None:
            return c
        return _pick(near.upper() if c.isupper() else near, which)

    return "".join(typed(c, *draw) for c, draw in zip(text, draws, strict=True))


def word_drop(text: str, rate: float, draws: Draws) -> str:
    """Words are left out, but never all of a text."""
    words = text.split()
    kept = [word for word, (whether, _) in zip(words, draws, strict=False) if whether >= rate]
    return text if len(kept) == len(words) else " ".join(kept or words[:1])


def word_swap(text: str, rate: float, draws: Draws) -> str:
    """Words change places with the word behind them."""
    parts = re.split(r"(\s+)", text)
    at = [i for i, part in enumerate(parts) if part and not part.isspace()]
    n = 0
    while n < len(at) - 1:
        if draws[n][0] < rate:
            parts[at[n]], parts[at[n + 1]] = parts[at[n + 1]], parts[at[n]]
            n += 1
        n += 1
    return "".join(parts)


NOISES: dict[str, Callable[[str, float, Draws], str]] = {
    "character_swap": character_swap,
    "character_drop": character_drop,
    "character_insert": character_insert,
    "keyboard": keyboard,
    "word_drop": word_drop,
    "word_swap": word_swap,
}


def noised(example: Example, kind: str, rate: float, key: tuple[Part, ...]) -> Example:
    """The example with noise in each of its texts.

    Args:
        kind: one of `NOISES`.
        rate: share of the letters or words that are changed.
        key: of the example.
    """
    texts = []
    for number, text in enumerate(example.texts):
        random = Random(seed_from(*key, kind, number))
        texts.append(NOISES[kind](text, rate, [(random.random(), random.random()) for _ in text]))
    return Example(tuple(texts), example.label)


def _pick(choices: str, chance: float) -> str:
    return choices[int(chance * len(choices))]
