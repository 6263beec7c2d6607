"""Changes of characters: a reader still reads the word, and nothing but its letters changes."""

import unicodedata
from random import Random

import pytest

from mat_ds.tasks.characters import CHANGES, HOMOGLYPHS, INVISIBLE, NEIGHBOURS, THOROUGH, with_words_changed, words_of

TEXT = (
    "Don't  miss \"Ocean's 11\", a na\u0131\u0308ve co-production:\n100% of it is GOOD "
    "\u2014 \u65e5\u672c\u8a9e, e\u0301te\u0301 ;-) \U0001f600"
)
SEEDS = range(60)


def drawn(change, word):
    return {change(word, Random(seed)) for seed in SEEDS}


def test_each_change_does_what_it_says():
    """Worked out by hand."""
    look_alike = {"c\u043ede", "\u0441ode", "co\u0501e", "cod\u0435"}
    assert drawn(CHANGES["homoglyph"], "code") == look_alike
    assert drawn(THOROUGH["homoglyph"], "Code-1") == {"\u0421\u043e\u0501\u0435-1"}
    assert drawn(CHANGES["invisible"], "abc") == {f"{a}{c}{b}" for c in INVISIBLE for a, b in (("a", "bc"), ("ab", "c"))}
    assert drawn(THOROUGH["invisible"], "it's") == {f"i{c}t's" for c in INVISIBLE}
    assert drawn(CHANGES["spacing"], "attack,") == {"a t t a c k,"}
    assert drawn(CHANGES["leetspeak"], "Attack!") == {"4774ck!"}
    assert drawn(CHANGES["swap"], "word") == {"wrod", "wodr"}
    assert drawn(CHANGES["swap"], "Hello") == {"Hlelo", "Helol"}, "equal letters are not swapped, the first stays"
    assert drawn(CHANGES["keyboard"], "qoPq") == {
        *(f"q{c}Pq" for c in NEIGHBOURS["o"]), *(f"qo{c.upper()}q" for c in NEIGHBOURS["p"]),
        *(f"qoP{c}" for c in NEIGHBOURS["q"]),
    }  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES.values(), *THOROUGH.values()])
def test_what_is_no_letter_stays_where_it_is(change):
    assert drawn(change, "11") == {"11"} and drawn(change, ":-)") == {":-)"} and drawn(change, "\U0001f600") == {"\U0001f600"}
    for seed in SEEDS:
        changed = with_words_changed(TEXT, change, Random(seed))
        assert changed == with_words_changed(TEXT, change, Random(seed))
        rest = [c for c in TEXT if not c.isalpha() and not c.isspace()]
        kept = [c for c in changed if not c.isalpha() and not c.isspace() and c not in INVISIBLE]
        if change is not CHANGES["leetspeak"]:
            assert kept == rest
        assert [changed[a:b].strip('"') for a, b in words_of(changed)] != [] and changed != TEXT


def test_words_have_a_letter_and_chosen_ones_alone_change():
    assert [TEXT[a:b] for a, b in words_of(TEXT)] == [
        "Don't", "miss", '"Ocean\'s', "a", "na\u0131\u0308ve", "co-production:", "of", "it", "is", "GOOD",
        "\u65e5\u672c\u8a9e,", "e\u0301te\u0301",
    ]  # fmt: skip
    spaced = CHANGES["spacing"]
    assert with_words_changed("as it was 99%", spaced, Random(0)) == "a s   i t   w a s 99%", "words can be told apart"
    assert with_words_changed("as it was", spaced, Random(0), {1}) == "as   i t   was"
    assert with_words_changed("", spaced, Random(0)) == "" and with_words_changed(" 1 ", spaced, Random(0)) == " 1 "
    assert with_words_changed("e\u0301te\u0301", spaced, Random(0)) == "e\u0301 t e\u0301", "an accent stays on its letter"


def test_short_words_are_not_mistyped_into_other_words():
    for word in ("not", "was", "no"):
        assert drawn(CHANGES["swap"], word) == drawn(CHANGES["keyboard"], word) == {word}


def test_look_alikes_are_of_other_alphabets_and_no_normal_form_undoes_them():
    for letter, other in HOMOGLYPHS.items():
        assert (
            unicodedata.name(other).split()[0] in ("CYRILLIC", "GREEK", "ARMENIAN") and unicodedata.name(letter)[:5] == "LATIN"
        )
        assert letter.isupper() == other.isupper() and unicodedata.normalize("NFKC", other) == other


def test_invisible_characters_have_no_width():
    assert all(unicodedata.category(c) in ("Cf", "Mn") and unicodedata.east_asian_width(c) in ("N", "A") for c in INVISIBLE)
