"""Learning rates are transformers' own, one value per outer step."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from mat_ds.sampling.options import OptimizerConfig
from mat_ds.sampling.schedule import learning_rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_the_schedule_is_transformers(schedule, warmup):
    total, lr = 20, 3e-5
    ours = learning_rate(OptimizerConfig(lr=lr, schedule=schedule, warmup_ratio=warmup), total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    theirs = get_scheduler(name, optimizer, num_warmup_steps=int(warmup * total), num_training_steps=total)
    for step in range(total):
        assert ours(step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
@pytest.mark.parametrize(
    "options, theirs",
    [
        ({"schedule": "cosine", "min_lr_ratio": 0.1}, ("cosine_with_min_lr", {"min_lr_rate": 0.1})),
        ({"schedule": "warmup_stable_decay", "decay_ratio": 0.3}, ("warmup_stable_decay", {"num_decay_steps": 6})),
        (
            {"schedule": "warmup_stable_decay", "decay_ratio": 0.5, "min_lr_ratio": 0.2},
            ("warmup_stable_decay", {"num_decay_steps": 10, "min_lr_ratio": 0.2}),
        ),
    ],
    ids=str,
)
def test_schedules_with_a_floor_or_a_plateau_are_transformers(options, theirs, warmup):
    total, lr, (name, more) = 20, 3e-5, theirs
    ours = learning_rate(OptimizerConfig(lr=lr, warmup_ratio=warmup, **options), total)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    more = more | ({"decay_type": "linear"} if "decay" in name else {})
    scheduler = get_scheduler(name, optimizer, int(warmup * total), total, scheduler_specific_kwargs=more)
    for step in range(total):
        # Theirs of the plateau begins at the floor; ours, as all others, at 0.
        if step >= warmup * total or "min_lr_ratio" not in more:
            assert ours(step) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_schedule_follows_its_formula():
    """With T = 100, W = 10, m = 0.1; D = 90, or 20 after a plateau."""
    options = {"lr": 2.0, "warmup_ratio": 0.1, "min_lr_ratio": 0.1, "decay_ratio": 0.2}
    linear, cosine, stable = (
        learning_rate(OptimizerConfig(schedule=name, **options), 100) for name in ("linear", "cosine", "warmup_stable_decay")
    )
    assert [schedule(5) for schedule in (linear, cosine, stable)] == [1.0, 1.0, 1.0]
    assert [schedule(10) for schedule in (linear, cosine, stable)] == [2.0, 2.0, 2.0]
    assert linear(55) == pytest.approx(2 * (0.1 + 0.9 * 0.5)) and linear(100) == pytest.approx(0.2)
    assert cosine(40) == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 3)) / 2)) and cosine(100) == pytest.approx(0.2)
    assert {stable(t) for t in range(10, 81)} == {2.0}
    assert stable(85) == pytest.approx(2 * (0.1 + 0.9 * 0.75)) and stable(100) == pytest.approx(0.2)


def test_a_run_that_is_too_short_for_its_plateau_warms_up_first():
    schedule = learning_rate(OptimizerConfig(lr=1.0, schedule="warmup_stable_decay", warmup_ratio=0.5, decay_ratio=0.5), 3)
    assert [schedule(t) for t in range(3)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "options, key",
    [
        ({"schedule": "constant", "min_lr_ratio": 0.1}, "optimizer.min_lr_ratio"),
        ({"schedule": "warmup_stable_decay", "warmup_ratio": 0.5, "decay_ratio": 0.6}, "optimizer.decay_ratio"),
        ({"lr": 0.0, "head_lr": 1e-3}, "optimizer.head_lr"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, key):
    assert [problem.key for problem in OptimizerConfig(**options).problems()] == [key]
    for least in options:
        rest = {name: value for name, value in options.items() if name != least}
        assert not list(OptimizerConfig(**rest).problems()), "each is fine without the other"


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5])
def test_a_decay_is_positive_and_at_most_one(value):
    with pytest.raises(ValidationError):
        OptimizerConfig(layer_decay=value)


def test_the_polynomial_schedule_of_earlier_recipes_means_the_linear_one():
    assert OptimizerConfig(schedule="polynomial").schedule == "linear"


def test_with_a_warm_up_the_first_learning_rate_is_zero():
    assert learning_rate(OptimizerConfig(), 100)(0) == 0.0
    assert learning_rate(OptimizerConfig(lr=0.0), 100)(50) == 0.0
