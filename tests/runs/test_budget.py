"""`train.budget`: methods of different cost do equal work."""

from fractions import Fraction

import pytest

from mat_ds.runs.load import read_run_config
from mat_ds.runs.options import combination_problems
from mat_ds.runs.steps import total_steps


def read(*overrides):
    run, problems = read_run_config(None, list(overrides), None)
    return run, [*problems, *combination_problems(run, world_size=1)]


@pytest.mark.parametrize(
    "method, passes",
    # What an outer step computes: a forward pass 1, a backward pass to the parameters 2, to the perturbation alone 1.
    [
        (["method.name=vanilla"], 3),
        (["method.name=rdrop"], 6),
        (["method.name=freelb", "method.delta_steps=4"], 4 * 3),
        # Two ascents after each pass but the last, a forward and a backward pass through one of 24 layers each.
        (
            ["method.name=yopo", "method.delta_steps=4", "method.layer_steps=2", "method.layers=24"],
            4 * 3 + 3 * 2 * Fraction(2, 24),
        ),
        (["method.name=mat", "method.delta_steps=3", "method.theta_steps=2"], 3 * (1 + 2) + 2 * 2 * 3),
    ],
)
def test_a_budget_buys_as_many_steps_as_it_pays_for(method, passes):
    run, problems = read(*method, "train.batch_size=16", "train.budget=10000")
    assert not problems and total_steps(run, steps_per_epoch=7) == 10000 // (16 * passes)


def test_a_budget_too_small_for_a_step_or_beside_max_steps_is_refused():
    _, problems = read("method.name=vanilla", "train.batch_size=16", "train.budget=47")
    assert [problem.key for problem in problems] == ["train.budget"] and "48 forward passes" in problems[0].reason
    _, problems = read("method.name=yopo", "method.delta_steps=2", "train.batch_size=16", "train.budget=101")
    assert "101.33 forward passes" in problems[0].reason
    _, problems = read("method.name=yopo", "method.layer_steps=3", "train.batch_size=16", "train.budget=159")
    assert "160 forward passes" in problems[0].reason
    _, problems = read("method.name=vanilla", "train.budget=100000", "train.max_steps=5")
    assert [problem.key for problem in problems] == ["train.budget"] and "max_steps=5" in problems[0].reason
