"""Noise in texts: the effect of each kind, its rate, and that it depends only on its key."""

import pytest

from mat_ds.evaluation.noise import ALPHABET, NOISES, noised
from mat_ds.tasks.characters import NEIGHBOURS
from mat_ds.tasks.example import Example

TEXT = "The quick brown Fox, aged 42, jumps over the lazy dog near the old harbour; it was never seen again. " * 20
EXAMPLE = Example((TEXT, "Another text."), 1)


def noisy(kind, rate=0.1, key=(0,), example=EXAMPLE):
    return noised(example, kind, rate, key).texts


@pytest.mark.parametrize("kind", NOISES)
def test_noise_depends_only_on_its_key(kind):
    assert noisy(kind) == noisy(kind) != noisy(kind, key=(1,))
    assert noised(EXAMPLE, kind, 0.1, (0,)).label == 1
    assert noisy(kind, rate=1e-9) == EXAMPLE.texts
    twice = noisy(kind, 0.3, example=Example((TEXT, TEXT), 1))
    assert twice[0] != twice[1], "the texts of a pair are changed at different places"


@pytest.mark.parametrize("kind", NOISES)
def test_texts_without_letters_or_words_are_kept(kind):
    for text in ("", " ", "42", "x", "?!"):
        (found,) = noisy(kind, 1.0, example=Example((text,), 0))
        assert kind in ("character_drop", "character_insert", "keyboard") or found.split() == text.split()
        assert text == "x" or found == text


def changed(kind, before, after):
    """(number of letters or words that are changed or moved, number of all)."""
    if kind.startswith("word"):
        before, after = before.split(), after.split()
    total = len(before) if kind.startswith("word") else sum(c.isalpha() for c in before)
    if len(before) != len(after):
        return abs(len(before) - len(after)), total
    return sum(a != b for a, b in zip(before, after, strict=True)), total


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.2, 0.35])
@pytest.mark.parametrize("kind", NOISES)
def test_the_rate_is_the_share_of_changed_units(kind, rate):
    number, total = changed(kind, TEXT, noisy(kind, rate)[0])
    assert number == pytest.approx(rate * total, abs=2)  # a swap changes two


@pytest.mark.parametrize("kind", NOISES)
def test_the_rate_is_the_share_over_many_short_texts_too(kind):
    sentences = ["The keys near the old cabinet are golden .", "Bookkeepers off all ill eggs", "I saw a cat on a mat", "oh no"]
    counts = [
        changed(kind, text, noisy(kind, 0.1, key=(number,), example=Example((text,), 0))[0])
        for number in range(1500)
        for text in sentences
    ]
    assert sum(n for n, _ in counts) / sum(total for _, total in counts) == pytest.approx(0.1, rel=0.06)


def test_equal_neighbours_are_not_swapped():
    assert noisy("character_swap", 0.5, example=Example(("aaaaab",), 0)) == ("aaaaba",)
    assert noisy("word_swap", 0.5, example=Example(("so so so so so what",), 0)) == ("so so so so what so",)


def test_swaps_lose_nothing_and_letters_stay_in_their_word():
    swapped = noisy("character_swap", 0.3)[0]
    assert swapped != TEXT
    assert [sorted(word) for word in swapped.split()] == [sorted(word) for word in TEXT.split()]
    moved = noisy("word_swap", 0.3)[0]
    assert sorted(moved.split()) == sorted(TEXT.split()) and moved != TEXT


def test_a_keyboard_slip_hits_a_neighbour_in_the_same_case():
    for before, after in zip(TEXT, noisy("keyboard", 0.5)[0], strict=True):
        assert after == before or (after.lower() in NEIGHBOURS[before.lower()] and after.isupper() == before.isupper())
    assert set(NEIGHBOURS) == set(ALPHABET)
    assert all(one in NEIGHBOURS[other] for one, near in NEIGHBOURS.items() for other in near), "neighbours are mutual"


def test_digits_and_punctuation_are_kept_and_one_word_is_left():
    kept = [c for c in TEXT if not c.isalpha()]
    for kind in ("character_swap", "character_drop", "character_insert", "keyboard"):
        assert [c for c in noisy(kind, 0.5)[0] if not c.isalpha()] == kept
    assert noisy("word_drop", 1.0) == ("The", "Another")


@pytest.mark.parametrize("kind", NOISES)
def test_a_higher_rate_changes_everything_that_a_lower_one_changes(kind):
    words = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa".split()
    text = " ".join(words * 8) if kind.startswith("character") or kind == "keyboard" else " ".join(words)
    low, high = (noisy(kind, rate, example=Example((text,), 0))[0] for rate in (0.1, 0.4))
    if kind == "word_drop":
        assert set(high.split()) < set(low.split())
    elif kind in ("character_drop", "character_insert"):
        shorter, longer = sorted((low, high), key=len)
        remaining = iter(longer)
        assert all(c in remaining for c in shorter), "one is the other with more left out"
    else:
        before, low, high = (t.split() if kind == "word_swap" else t for t in (text, low, high))
        assert all(b == c for a, b, c in zip(before, low, high, strict=True) if a != b)
