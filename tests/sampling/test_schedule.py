"""Learning rates are transformers' own, one value per outer step."""

import pytest
import torch
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


def test_the_polynomial_schedule_of_earlier_recipes_means_the_linear_one():
    assert OptimizerConfig(schedule="polynomial").schedule == "linear"


def test_with_a_warm_up_the_first_learning_rate_is_zero():
    assert learning_rate(OptimizerConfig(), 100)(0) == 0.0
    assert learning_rate(OptimizerConfig(lr=0.0), 100)(50) == 0.0
