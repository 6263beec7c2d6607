"""The words of a text, where they are, and how one replaces another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mat_ds.evaluation.attacks.english import KEPT

WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


@dataclass(frozen=True)
class Word:
    """A word of a text: letters, with apostrophes inside. `text[start:end]` is `written`."""

    written: str
    start: int
    end: int

    @property
    def lower(self) -> str:
        """In lower case, as word lists have it."""
        return self.written.lower()


def split_words(text: str) -> list[Word]:
    """All words of a text; numbers and punctuation are none. Words in place of words leave their number as it is."""
    return [Word(match.group(), *match.span()) for match in WORD.finditer(text)]


def most_changes(words: Sequence[Word], share: float) -> int:
    """How many words of a text may be changed: a share of them, at least one."""
    return max(1, int(share * len(words)))


def changeable(text: str) -> list[int]:
    """The positions of the words that may be changed, among all words of a text.

    Kept are words of closed classes, names and abbreviations as far as capitals tell (a capital not at the begin of a
    sentence, in a text that is not all in capitals), what an apostrophe, hyphen or digit joins to others, and single letters.
    """
    words, shouted = split_words(text), text.isupper()
    found = []
    for i, word in enumerate(words):
        begins = not text[: word.start].strip(" \t\"'(") or text[: word.start].rstrip(" \t\"'(")[-1:] in ".!?:\n"
        named = not shouted and not word.written.islower() and not (begins and word.written.istitle())
        around = text[max(0, word.start - 1) : word.start] + text[word.end : word.end + 1]
        joined = not word.written.isalpha() or any(mark in "'\u2019-_@#/" or mark.isdigit() for mark in around)
        if not (named or joined or len(word.written) < 2 or word.lower in KEPT):
            found.append(i)
    return found


def replaced(text: str, word: Word, new: str) -> str:
    """The text with another word, written in the same case."""
    if word.written.isupper() and len(word.written) > 1:
        new = new.upper()
    elif word.written[0].isupper():
        new = new[0].upper() + new[1:]
    return text[: word.start] + new + text[word.end :]


def agrees(text: str, word: Word, new: str) -> bool:
    """Whether an article before the word fits the new one too, as far as its first letter tells."""
    before = re.search(r"\b(an?)\s+$", text[: word.start], re.I)
    return before is None or (word.lower[0] in "aeiou") == (new[0] in "aeiou")


def without_word(text: str, number: int) -> str:
    """The text without one of its words, and without the blank before it, or else the one after it."""
    word = split_words(text)[number]
    before, after = text[: word.start], text[word.end :]
    return before[:-1] + after if before[-1:] == " " else before + after.removeprefix(" ")
