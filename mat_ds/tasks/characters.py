"""Changes of characters that leave a text readable: mistakes in typing, and what is done to texts to get them past a filter.

Each change of a word is a pure function of the word and random numbers. Only letters change: digits, punctuation and emoji stay
as they are. A word that has no letter to change comes back as it is.

Source: homoglyphs and invisible characters as in Boucher et al. 2022, "Bad Characters"; swaps and neighbours on the keyboard as
in Li et al. 2019, "TextBugger", which also leaves the first letter and short words alone, as "not" would become another word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from random import Random

Change = Callable[[str, Random], str]

# The adjacent letters on a QWERTY keyboard.
NEIGHBOURS = {
    "q": "wa", "w": "qeas", "e": "wrsd", "r": "etdf", "t": "ryfg", "y": "tugh", "u": "yihj", "i": "uojk", "o": "ipkl",
    "p": "ol", "a": "qwsz", "s": "awedzx", "d": "serfxc", "f": "drtgcv", "g": "ftyhvb", "h": "gyujbn", "j": "huiknm",
    "k": "jiolm", "l": "kop", "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip

# Letters of other alphabets that most fonts draw alike, of Unicode's table of confusables (UTS 39): Cyrillic, for v, N, Y, Z
# Greek, for n, u Armenian.
HOMOGLYPHS = dict(zip(
    "acdehijlopqswxy" "vnu" "ABCEGHIJKMOPQSTWX" "NYZ",
    "\u0430\u0441\u0501\u0435\u04bb\u0456\u0458\u04cf\u043e\u0440\u051b\u0455\u051d\u0445\u0443" "\u03bd\u0578\u057d"
    "\u0410\u0412\u0421\u0415\u050c\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u051a\u0405\u0422\u051c\u0425"
    "\u039d\u03a5\u0396",
    strict=True,
))  # fmt: skip

# Without a width: zero width space, non-joiner and joiner, word joiner, soft hyphen, grapheme joiner, variation selector 1.
# Which of them a tokenizer drops differs: BERT's drops the first five, an uncased one all.
INVISIBLE = "\u200b\u200c\u200d\u2060\u00ad\u034f\ufe00"

LEETSPEAK = dict(zip("abegiostz", "483910572", strict=True))

# Fewer letters make another word too easily.
SHORTEST_TYPO = 4


def homoglyph(word: str, random: Random) -> str:
    """One letter becomes one that looks alike."""
    return _replaced(word, _one_of([i for i, c in enumerate(word) if c in HOMOGLYPHS], random), HOMOGLYPHS.__getitem__)


def homoglyphs(word: str, random: Random) -> str:
    """Every letter that has one becomes one that looks alike."""
    return "".join(HOMOGLYPHS.get(c, c) for c in word)


def invisible(word: str, random: Random) -> str:
    """An invisible character between two letters."""
    character = random.choice(INVISIBLE)
    return _replaced(word, _one_of(_inner(word), random), lambda c: character + c)


def invisibles(word: str, random: Random) -> str:
    """An invisible character, always the same, between all letters."""
    character = random.choice(INVISIBLE)
    return _replaced(word, _inner(word), lambda c: character + c)


def spacing(word: str, random: Random) -> str:
    """Spaces between all letters: "w o r d"."""
    return _replaced(word, _inner(word), lambda c: " " + c)


def leetspeak(word: str, random: Random) -> str:
    """Digits for the letters that they resemble: "w0rd5"."""
    return "".join(LEETSPEAK.get(c.lower(), c) for c in word)


def swap(word: str, random: Random) -> str:
    """Two neighbouring letters swapped, neither of them the first: "wrod"."""
    places = _typed(word)
    pairs = [i for i, j in pairwise(places) if j == i + 1 and word[i] != word[j]]
    for i in _one_of(pairs, random):
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    return word


def mistyped(word: str, random: Random) -> str:
    """A letter, not the first, becomes a neighbour on the keyboard, in the same case: "wotd"."""
    which = random.random()
    places = [i for i in _typed(word) if word[i].lower() in NEIGHBOURS]
    return _replaced(word, _one_of(places, random), lambda c: neighbour(c, which))


# The changes of a word.
CHANGES: dict[str, Change] = {
    "homoglyph": homoglyph, "invisible": invisible, "spacing": spacing, "leetspeak": leetspeak, "swap": swap,
    "keyboard": mistyped,
}  # fmt: skip

# The same done to all that there is in a word; a whole text of them can still be read.
THOROUGH: dict[str, Change] = {
    "homoglyph": homoglyphs, "invisible": invisibles, "spacing": spacing, "leetspeak": leetspeak,
}  # fmt: skip


def words_of(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end: what stands between blanks and has a letter."""
    return [match.span() for match in re.finditer(r"\S+", text) if any(map(str.isalpha, match[0]))]


def with_words(text: str, new: Mapping[int, str]) -> str:
    """A text with other words at some positions among `words_of(text)`. The gaps beside a word that is spaced out get wider, so
    that a reader can tell the words apart."""
    parts, end, wide = [], 0, False
    for number, (first, last) in enumerate(words_of(text)):
        word = new.get(number, text[first:last])
        wider = wide or " " in word
        wide = " " in word
        gap = text[end:first]
        parts += [gap + "  " if gap and wider else gap, word]
        end = last
    return "".join([*parts, text[end:]])


def with_words_changed(text: str, change: Change, random: Random, chosen: Collection[int] | None = None) -> str:
    """A text with some of its words changed.

    Args:
        change: of a word, such as one of `CHANGES`.
        random: where the change takes its random numbers from.
        chosen: positions among `words_of(text)`; None: all words.
    """
    words = enumerate(words_of(text))
    return with_words(text, {i: change(text[a:b], random) for i, (a, b) in words if chosen is None or i in chosen})


def neighbour(letter: str, which: float) -> str:
    """A neighbour of a letter on the keyboard, in the same case; the letter itself if it has none.

    Args:
        which: of its neighbours, uniform in [0, 1).
    """
    near = NEIGHBOURS.get(letter.lower(), letter)
    chosen = near[int(which * len(near))]
    return chosen.upper() if letter.isupper() else chosen


def _inner(word: str) -> list[int]:
    """Positions of letters that follow a letter; accents belong to the letter before them."""
    after = [False, *(c.isalpha() or unicodedata.category(c)[0] == "M" for c in word)]
    return [i for i, c in enumerate(word) if c.isalpha() and after[i]]


def _typed(word: str) -> list[int]:
    """Positions of the letters in which a mistake leaves the word readable."""
    letters = [i for i, c in enumerate(word) if c.isalpha()]
    return letters[1:] if len(letters) >= SHORTEST_TYPO else []


def _one_of(places: list[int], random: Random) -> list[int]:
    """One of some places; none if there is none. Takes one random number either way."""
    which = random.random()
    return [places[int(which * len(places))]] if places else []


def _replaced(word: str, places: list[int], by: Callable[[str], str]) -> str:
    some = set(places)
    return "".join(by(c) if i in some else c for i, c in enumerate(word))
