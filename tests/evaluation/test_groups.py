"""Scores by the values of a column."""

import torch

from mat_ds.evaluation.groups import MOST, group_problems, rows_by_group
from mat_ds.evaluation.measurement import grouped_scores
from mat_ds.evaluation.scores import Outcome
from mat_ds.evaluation.table import table_of
from mat_ds.tasks.example import Example
from mat_ds.tasks.registry import TASKS


def test_a_group_has_the_scores_of_its_examples_alone():
    labels, groups = [1, 0, 1, 1, 0], ["word", "human", "word", None, "word"]
    examples = [Example(("a",), label, group=group) for label, group in zip(labels, groups, strict=True)]
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    found = grouped_scores(TASKS["sst2"], Outcome(logits, losses, logits.argmax(1) == torch.tensor(labels)), examples)
    assert found == {
        "groups": {
            "word": {"accuracy": 1 / 3, "loss": 3.0, "examples": 3},  # right, wrong, wrong
            "(none)": {"accuracy": 1.0, "loss": 4.0, "examples": 1},
            "human": {"accuracy": 1.0, "loss": 2.0, "examples": 1},
        }
    }
    report = {"splits": {"dev": {"clean": {"accuracy": 0.6, "loss": 3.0}, "attack": [], "noise": {}, **found}}}
    assert table_of(report)[:3] == [
        ["measured", "accuracy", "loss", "examples"],
        ["clean", 0.6, 3.0, None],
        ["clean, word", 1 / 3, 3.0, 3],
    ]
    assert rows_by_group([Example(("a",), 0)]) == {} and grouped_scores(TASKS["sst2"], None, [Example(("a",), 0)]) == {}


def test_a_column_that_no_row_has_or_that_tells_all_rows_apart_is_refused():
    alike, apart = [Example(("a",), 0)], [Example(("a",), 0, group=str(i)) for i in range(MOST + 1)]
    assert [problem.key for problem in group_problems("genre", {"dev": alike, "test": apart})] == ["groups", "groups"]
    assert not list(group_problems(None, {"dev": apart})) and not list(group_problems("genre", {"dev": apart[1:]}))
