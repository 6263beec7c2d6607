"""Noise on any text at any rate: it changes no more than the rate, keeps the rest, and grows with the rate."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mat_ds.evaluation.noise import NOISES, noised
from mat_ds.tasks.example import Example

TEXTS = st.one_of(st.text(max_size=60), st.text("abAB é1.,\n\tßİжЖ", max_size=60))
RATES = st.floats(0.0, 1.0, exclude_min=True)


def letters(text):
    return [c for c in text if c.isalpha()]


@settings(deadline=None, max_examples=150)
@given(TEXTS, RATES, RATES, st.sampled_from(sorted(NOISES)), st.integers(0, 2**32))
def test_any_text_is_changed_by_no_more_than_the_rate(text, one, other, kind, key):
    low, high = sorted((one, other))
    found = [noised(Example((text,), 0), kind, rate, (key,)).texts[0] for rate in (low, high)]
    for rate, after in zip((low, high), found, strict=True):
        assert after == noised(Example((text,), 0), kind, rate, (key,)).texts[0]
        if kind.startswith("word"):
            before, words = text.split(), after.split()
            if kind == "word_drop":
                assert len(before) - len(words) <= rate * len(before) + 1 and bool(words) == bool(before)
            else:
                changed = sum(a != b for a, b in zip(before, words, strict=True))
                assert sorted(words) == sorted(before) and changed <= rate * len(before) + 2
            continue
        total = len(letters(text))
        if kind in ("character_swap", "keyboard"):
            changed = sum(a != b for a, b in zip(text, after, strict=True))
            assert changed <= rate * total + 2
        else:
            assert abs(len(text) - len(after)) <= rate * total + 1
        assert [c for c in after if not c.isalpha()] == [c for c in text if not c.isalpha()]
    if kind in ("character_swap", "keyboard"):
        assert all(b == c for a, b, c in zip(text, *found, strict=True) if a != b), "a higher rate undoes nothing"
