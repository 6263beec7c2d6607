"""The noise in texts: what each kind does, at which rate, and on what it depends."""

import pytest

from mat_ds.robustness.noise import ALPHABET, NEIGHBOURS, NOISES, noised
from mat_ds.tasks.examples import Example

TEXT = "The quick brown Fox, aged 42, jumps over the lazy dog near the old harbour; it was never seen again. " * 20
EXAMPLE = Example((TEXT, "Another text."), 1)


def noisy(kind, rate=0.1, key=(0,), example=EXAMPLE):
    return noised(example, kind, rate, key).texts


@pytest.mark.parametrize("kind", NOISES)
def test_noise_is_a_function_of_its_key(kind):
    assert noisy(kind) == noisy(kind) != noisy(kind, key=(1,))
    assert noised(EXAMPLE, kind, 0.1, (0,)).label == 1
    assert noisy(kind, rate=1e-9) == EXAMPLE.texts
    twice = noisy(kind, 0.3, example=Example((TEXT, TEXT), 1))
    assert twice[0] != twice[1], "the texts of a pair are changed at different places"


@pytest.mark.parametrize("kind", NOISES)
def test_texts_without_letters_or_words_survive(kind):
    for text in ("", " ", "42", "x", "?!"):
        (found,) = noisy(kind, 1.0, example=Example((text,), 0))
        assert kind in ("character_drop", "character_insert", "keyboard") or found.split() == text.split()
        assert text == "x" or found == text


def test_the_rate_is_the_share_that_is_changed():
    letters, words = sum(c.isalpha() for c in TEXT), len(TEXT.split())
    assert len(TEXT) - len(noisy("character_drop")[0]) == pytest.approx(0.1 * letters, rel=0.2)
    assert len(noisy("character_insert")[0]) - len(TEXT) == pytest.approx(0.1 * letters, rel=0.2)
    typed = noisy("keyboard")[0]
    assert sum(a != b for a, b in zip(TEXT, typed, strict=True)) == pytest.approx(0.1 * letters, rel=0.2)
    assert words - len(noisy("word_drop")[0].split()) == pytest.approx(0.1 * words, rel=0.3)
    moved = sum(a != b for a, b in zip(TEXT.split(), noisy("word_swap")[0].split(), strict=True))
    assert moved == pytest.approx(0.2 * words, rel=0.3)


def test_swaps_keep_what_they_move_and_letters_stay_in_their_word():
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


def test_digits_punctuation_and_the_last_word_are_kept():
    kept = [c for c in TEXT if not c.isalpha()]
    for kind in ("character_swap", "character_drop", "character_insert", "keyboard"):
        assert [c for c in noisy(kind, 0.5)[0] if not c.isalpha()] == kept
    assert noisy("word_drop", 1.0) == ("The", "Another")


def test_a_higher_rate_changes_what_a_lower_one_does():
    low, high = noisy("keyboard", 0.1)[0], noisy("keyboard", 0.4)[0]
    assert all(b == c for a, b, c in zip(TEXT, low, high, strict=True) if a != b)
    assert set(noisy("word_drop", 0.4)[0].split()) <= set(noisy("word_drop", 0.1)[0].split())
