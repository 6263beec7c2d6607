"""Words and short phrases that change nothing for a reader who meets them before or after a text."""

from __future__ import annotations

from random import Random

# A list of our own: greetings and what holds texts together. They say nothing of any subject, praise and blame nothing, negate
# nothing, and name no time or place, as that could make a sentence false.
WORDS = (
    "hello", "hi", "please", "ok", "so", "now", "also", "and", "anyway", "again", "next", "note",
    "see below", "as follows", "that is", "in short", "in other words", "by the way", "for the record", "for reference",
    "to begin with", "as mentioned", "as stated", "in summary", "end of text",
)  # fmt: skip
# More would be noticed.
MOST_ADDED = 3


def with_benign_words(text: str, random: Random) -> str:
    """A text with one to three of them at random, each at either end."""
    for _ in range(random.randint(1, MOST_ADDED)):
        word = random.choice(WORDS)
        text = f"{word} {text}" if random.random() < 0.5 else f"{text} {word}"
    return text
