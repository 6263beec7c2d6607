"""Attacks on texts: what they count and report, on a model that reads words of a given list only."""

from mat_ds.evaluation.attacks.base import Attacked, Verdict
from mat_ds.evaluation.attacks.measured import attacked_rows, summary
from mat_ds.tasks.example import Example

EXAMPLES = [Example((f"text {i}",), 0) for i in range(50)]
RIGHT, WRONG = Verdict(0.1, True), Verdict(2.0, False)


def test_only_right_answers_can_be_broken_and_queries_are_of_those_that_were_searched():
    found = [
        Attacked(EXAMPLES[0], *pair, queries) for *pair, queries in ((RIGHT, WRONG, 5), (RIGHT, RIGHT, 9), (WRONG, WRONG, 1))
    ]
    told = summary(found)
    assert (told["clean"], told["robust_accuracy"], told["broken"], told["flip_rate"]) == (2 / 3, 1 / 3, 1, 0.5)
    assert (told["queries"], told["queries_of_broken"]) == (7, 5)
    assert summary(found[2:])["flip_rate"] is None


def test_the_same_examples_are_attacked_whatever_attacks_them():
    assert attacked_rows(EXAMPLES, 9, (0, "a")) == attacked_rows(EXAMPLES, 9, (0, "a")) != attacked_rows(EXAMPLES, 9, (1, "a"))
    assert attacked_rows(EXAMPLES, 99, (0, "a")) == list(range(50))


def test_worse_is_wrong_before_right_then_the_greater_loss():
    assert WRONG.worse_than(RIGHT) and not RIGHT.worse_than(WRONG)
    assert Verdict(0.2, True).worse_than(RIGHT) and not RIGHT.worse_than(RIGHT)
