"""Asks a model about the texts of its behaviour tests, and counts the cases that fail.

As in CheckList, with the probabilities p of the answers to the texts x_0, x_1, ... of a case:

- mft: fails if the answer to x_0 is not the expected label;
- inv: fails if the answers are not all the same;
- dir: fails if p(label | x_k) < p(label | x_0) - tolerance for some k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mat_ds.evaluation.invariance.suite import BehaviourTest, Suite
from mat_ds.evaluation.invariance.written import DIR, INV
from mat_ds.evaluation.scores import Evaluator, Forward
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.tasks.kinds.base import Kind

# What the progress of the texts is called.
NAME = "invariance"
# Failing cases in the report, of each test.
SHOWN = 5

Answer = dict[str, Any]


def measure_invariance(suite: Suite, kind: Kind, evaluator: Evaluator, forward: Forward) -> dict[str, Any]:
    """What came of the tests of a file. Every rank must call it.

    Args:
        kind: of the task, whose answers are a label and the probabilities of all.
        forward: the model.
    """
    found = evaluator.predict(forward, suite.examples, NAME)
    tests = on_rank_zero(lambda: results_of_tests(suite, kind.answers(found.kept.numpy(), suite.examples)))
    return {"file": suite.file, "sha256": suite.sha256, "tests": tests}


def results_of_tests(suite: Suite, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """What came of each test, given the answers to `suite.examples`."""
    left = iter(answers)
    return [_result(test, [[next(left) for _ in case] for case in test.cases]) for test in suite.tests]


def _result(test: BehaviourTest, answers: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """The entry of a test in the report, given the answers to each case.

    `cases`, how many there are, of so many `combinations` of fills; `failures` and `failure_rate`, their share; `shown`: of the
    first failing cases the first text with its answer, and of `inv` and `dir` the one that differs most.
    """
    worst = [worst_of(test, case) for case in answers]
    failing = [i for i, place in enumerate(worst) if place is not None]
    shown = []
    for i in failing[:SHOWN]:
        places = dict.fromkeys((0, worst[i] or 0))
        shown.append([{"texts": list(test.cases[i][place].texts), **answers[i][place]} for place in places])
    count, texts = len(test.cases), sum(map(len, test.cases))
    return {
        "name": test.name, "kind": test.kind, "cases": count, "combinations": test.combinations, "texts": texts,
        "failures": len(failing), "failure_rate": len(failing) / count, "shown": shown,
    }  # fmt: skip


def worst_of(test: BehaviourTest, answers: Sequence[Answer]) -> int | None:
    """Which text of a case makes it fail; None if it passes."""
    first = answers[0]
    if test.kind == INV:
        others = [k for k, answer in enumerate(answers) if answer["label"] != first["label"]]
        return min(others, key=lambda k: answers[k]["probabilities"][first["label"]], default=None)
    assert test.label is not None
    label = list(first["probabilities"])[test.label]
    if test.kind == DIR:
        k = min(range(len(answers)), key=lambda k: answers[k]["probabilities"][label])
        fall = first["probabilities"][label] - answers[k]["probabilities"][label]
        return k if fall > test.tolerance else None
    return 0 if first["label"] != label else None
