"""Universal triggers against a model with words planted that decide alone, and one that none moves."""

import pytest
from torch import distributed

from mat_ds.evaluation.attacks.triggers import ALL, Triggers
from mat_ds.tasks.example import Example
from tests.support.bag import attacked, bag_victim

# The first number is what the model reads, the third says which words are near each other.
QUIET = {word: (0.1 * i, 1.0, 0.0) for i, word in enumerate("lamp road film street tree house".split(), 1)}
PLANTED = {
    "the": (0.0, 0.0, 0.0), "zebra": (-9.0, 0.0, 20.0), "yacht": (9.0, 0.0, 20.0), "terrible": (-99.0, 0.0, 0.0),
    "dire": (-60.0, 9.0, 0.0), "never": (99.0, 0.0, 0.0), "not": (-99.0, 0.0, 0.0),
}  # fmt: skip
READS_ONE = [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
POSITIVE = [Example((f"the {a} {b}",), 1) for a in QUIET for b in QUIET]
NEGATIVE = [Example((example.texts[0],), 0) for example in POSITIVE]


@pytest.fixture(scope="module", autouse=True)
def one_rank():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_the_planted_word_is_found_and_breaks_every_text_of_the_label_alone():
    found, shared = attacked(Triggers, bag_victim(QUIET | PLANTED, READS_ONE), POSITIVE)
    assert all(one.broken for one in found)
    assert {one.queries for one in found} == {2}
    assert shared["held_out"] == {"examples": 18, "right": 18, "broken": 18, "flip_rate": 1.0}
    trigger = shared["triggers"]["label1"]["trigger"]
    assert trigger == "zebra zebra zebra", "what is planted deeper would change the label"
    assert all(one.example.texts == (f"{trigger} {example.texts[0]}",) for one, example in zip(found, POSITIVE, strict=True))


def test_each_label_has_its_own_and_a_label_without_examples_that_of_all():
    either = bag_victim(QUIET | PLANTED, [[-1.0, -0.45, 0.0], [1.0, 0.45, 0.0]], (2.4, 0.0))
    some = [*(Example(("the house tree house",), 1) for _ in range(9)), *(Example(("the lamp",), 0) for _ in range(9))]
    found, shared = attacked(Triggers, either, some)
    assert all(one.broken for one in found) and shared["triggers"].keys() == {"label0", "label1"}
    assert "yacht" in shared["triggers"]["label0"]["trigger"] and "zebra" in shared["triggers"]["label1"]["trigger"]
    (*_, last), shared = attacked(Triggers, either, [*some[:17], Example(("the lamp lamp",), 0)][:10])
    assert shared["triggers"].keys() == {"label1", ALL} and last.queries == 2


def test_nothing_is_found_where_no_word_moves_the_model():
    victim = bag_victim(QUIET | PLANTED, [[0.0] * 3] * 2, (0.0, 1.0))
    found, shared = attacked(Triggers, victim, POSITIVE)
    assert not any(one.broken for one in found)
    assert shared["held_out"]["flip_rate"] == 0.0
    # One round: the first trigger, and in each place a gradient and all nine words that may be tried.
    assert shared["triggers"]["label1"] == {"trigger": "the the the", "examples": 18, "queries": 18 * (1 + 3 * (1 + 9))}


def test_a_model_that_answers_nothing_rightly_has_no_trigger():
    found, shared = attacked(Triggers, bag_victim(QUIET | PLANTED, READS_ONE), NEGATIVE)
    assert shared == {"triggers": {}, "held_out": {"examples": 18, "right": 0, "broken": 0, "flip_rate": None}}
    assert {one.queries for one in found} == {1}


def test_the_search_is_bounded_and_depends_on_the_key_alone():
    victims = [bag_victim(QUIET | PLANTED, READS_ONE, batch_size=size) for size in (1, 5, 64)]
    found = [attacked(Triggers, victim, POSITIVE) for victim in victims]
    assert found[0] == found[1] == found[2]
    for most in (5, 23):
        _, shared = attacked(Triggers, bag_victim(QUIET | PLANTED, READS_ONE), POSITIVE, max_queries=most)
        assert most - 2 < shared["triggers"]["label1"]["queries"] / 18 <= most


@pytest.mark.parametrize("column", [0, 1])
def test_of_a_pair_the_chosen_text_alone_has_the_trigger(column):
    pairs = [Example((example.texts[0], "the road"), 1) for example in POSITIVE]
    found, _ = attacked(Triggers, bag_victim(QUIET | PLANTED, READS_ONE, columns=("one", "two")), pairs, column=column)
    assert all(
        one.broken and one.example.texts[1 - column] == pair.texts[1 - column] for one, pair in zip(found, pairs, strict=True)
    )
