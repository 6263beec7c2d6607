"""The attacks by characters and by benign words, on models with a planted weakness and on one that has none."""

import unicodedata
from typing import ClassVar

import pytest
from tokenizers import normalizers

from mat_ds.evaluation.attacks.benign_words import SIDES, WORDS, BenignWords
from mat_ds.evaluation.attacks.characters import Characters
from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.tasks.characters import CHANGES, HOMOGLYPHS, INVISIBLE, LEETSPEAK, THOROUGH, words_of
from mat_ds.tasks.example import Example
from tests.support.bag import attacked, bag_victim

# Only "good" counts, and a text without it is of label 0.
READS_ONE, SIGN, BIAS = {"good": (2.0,), "film": (0.0,)}, [[-1.0], [1.0]], (1.0, 0.0)
FILM = Example(("The film was  good, 2 of 3 said so",), 1)
NOTHING = Example(("The film was long, 2 of 3 said so",), 0)


# Changes that a normaliser can undo, and by what it undoes them: the character that it finds, and what it makes of it.
UNDONE = {
    "homoglyph": [(there, here) for here, there in HOMOGLYPHS.items()],
    "invisible": [(there, "") for there in INVISIBLE],
    "leetspeak": [(there, here) for here, there in LEETSPEAK.items()],
}


class CanBeUndone(Characters):
    thorough: ClassVar = {name: THOROUGH[name] for name in UNDONE}
    changes: ClassVar = {name: CHANGES[name] for name in UNDONE}


def victim_that_undoes(*names):
    """It reads small letters, after some changes are undone."""
    victim = bag_victim(READS_ONE, SIGN, BIAS)
    undone = [normalizers.Replace(there, here) for name in names for there, here in UNDONE[name]]
    victim.tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([*undone, normalizers.Lowercase()])
    return victim


def counted(victim):
    """The texts that go through the model, counted there."""
    seen = []
    victim.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    return seen


def test_the_one_word_that_a_model_reads_is_found_and_no_other_changes():
    victim = bag_victim(READS_ONE, SIGN, BIAS)
    seen = counted(victim)
    (found,), _ = attacked(Characters, victim, [FILM])
    assert found.broken and found.queries == victim.queries == sum(seen) <= 200
    assert set(found.notes["broken_by"]) == {*CHANGES, *(f"{name}_all" for name in THOROUGH)}, (
        "no word is read but as it stands"
    )
    (text,) = found.example.texts
    assert text.startswith("The film was  ") and text.endswith(" 2 of 3 said so") and "good" not in text


def test_a_hole_in_the_tokenizer_is_told_by_its_change():
    for hole in UNDONE:
        found, _ = attacked(CanBeUndone, victim_that_undoes(*(UNDONE.keys() - {hole})), [FILM, NOTHING])
        assert found[0].notes == {"broken_by": [f"{hole}_all", hole]}
        assert found[0].example.texts[0].split(" ", 5)[5] == "2 of 3 said so"
        assert not found[1].broken and found[1].example is NOTHING, "without the word there is nothing to hide"
        figures = made(CanBeUndone).figures(found)["by_change"]
        assert figures == {name: 0.5 if name.removesuffix("_all") == hole else 0.0 for name in figures}
        assert [*figures] == ["homoglyph_all", "invisible_all", "leetspeak_all", "homoglyph", "invisible", "leetspeak", "mixed"]


def made(attack):
    return attack(TextAttackOptions(), None, 0)


def test_nothing_breaks_a_model_that_undoes_all_changes():
    victim = victim_that_undoes(*UNDONE)
    seen = counted(victim)
    (found,), _ = attacked(CanBeUndone, victim, [FILM])
    assert found.example is FILM and found.after == found.before and found.notes == {"broken_by": []}
    words = len(words_of(FILM.texts[0]))
    assert words == 7 and found.queries == sum(seen) > 1 + 3 + words


@pytest.mark.parametrize("attack", [Characters, BenignWords])
def test_queries_stay_within_the_budget_and_results_depend_on_the_key_alone(attack):
    weights = {word: (0.3,) for word in FILM.texts[0].lower().replace(",", "").split()} | {"please": (-0.5,), "so": (-0.1,)}
    texts = [FILM, NOTHING, Example(("Film good " * 70,), 1), Example(("",), 0), Example(("2 :-)",), 0)]

    def all_of(batch_size, order, **options):
        victim = bag_victim(weights, SIGN, BIAS, batch_size=batch_size)
        tool = made(attack)
        tool.victim, tool.options = victim, tool.options.model_copy(update=options)
        return {row: tool.attack(texts[row], (0, row)) for row in order}

    rows = range(len(texts))
    for budget in (1, 2, 3, 7, 20, 60, 200):
        found = all_of(8, rows, max_queries=budget)
        assert all(one.queries <= budget for one in found.values())
        assert found == all_of(1, reversed(rows), max_queries=budget), "neither the batch nor what was attacked before matters"
    assert any(one.broken for one in found.values())


def test_more_words_may_change_where_the_share_allows_it():
    """Five words count equally and three must go."""
    weights = {name: (0.4,) for name in ("one", "two", "three", "four", "five")}
    text = Example(("one two three four five",), 1)
    for share, broken in ((0.2, False), (0.4, False), (0.6, True)):
        (found,), _ = attacked(OnlyHomoglyphs, bag_victim(weights, SIGN, (2.0, 0.0)), [text], max_share=share, max_queries=500)
        changed = sum(
            before != after for before, after in zip(text.texts[0].split(), found.example.texts[0].split(), strict=True)
        )
        assert (found.broken, changed) == (broken, int(5 * share))


class OnlyHomoglyphs(Characters):
    thorough: ClassVar = {}
    changes: ClassVar = {"homoglyph": CHANGES["homoglyph"]}


def test_benign_words_are_added_until_the_model_is_wrong_and_their_places_are_told():
    """Each "please" counts 0.9 against 2.5, the logits' distance: three must be added."""
    victim = bag_victim({"good": (2.0,), "please": (-0.45,)}, SIGN, (1.5, 0.0))
    seen = counted(victim)
    found, _ = attacked(BenignWords, victim, [FILM], max_queries=500)
    assert found[0].broken and sum(map(len, found[0].notes.values())) == 3
    assert {word for words in found[0].notes.values() for word in words} == {"please"}
    ends = " ".join(["please"] * len(found[0].notes["before"])), " ".join(["please"] * len(found[0].notes["after"]))
    assert found[0].example.texts == (" ".join(part for part in (ends[0], *FILM.texts, ends[1]) if part),)
    assert found[0].queries == sum(seen)
    figures = made(BenignWords).figures(found)
    assert figures["by_added"] == {"1": 0.0, "2": 0.0, "3": 1.0}
    assert figures["words"] == {side: ({"please": 1} if found[0].notes[side] else {}) for side in SIDES}
    (less,), _ = attacked(BenignWords, victim, [FILM], max_queries=500, max_added=2)
    assert not less.broken and less.after.loss > less.before.loss
    (blind,), _ = attacked(BenignWords, bag_victim(READS_ONE, SIGN, BIAS), [FILM])
    assert blind.example is FILM and blind.notes == {"before": [], "after": []}


def test_benign_words_negate_nothing():
    words = {part for word in WORDS for part in word.split()}
    assert not words & {"not", "no", "never", "without"} and len(set(WORDS)) == len(WORDS)
    assert all(unicodedata.category(c) in ("Ll", "Zs") for word in WORDS for c in word)
