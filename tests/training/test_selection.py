"""What selects a model, and when training ends early, against counts by hand."""

import json

import pytest

from mat_ds.runs.options import EarlyStopping, RunConfig, combination_problems, task_problems
from mat_ds.storage.progress import Progress
from mat_ds.tasks.registry import TASKS
from mat_ds.training.selection import selection_of, stopping_result, stops_early, waited


def evaluations(*scores):
    return [{"step": 10 * (i + 1), "score": score} for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    "scores, min_delta, count",
    [
        ((0.5,), 0.0, 0),
        ((0.5, 0.5), 0.0, 1),  # an equal one is no better
        ((0.5, 0.4, 0.6), 0.0, 0),
        ((0.5, 0.6, 0.55, 0.6, 0.1), 0.0, 3),
        ((0.5, 0.54, 0.58, 0.61), 0.1, 0),  # small gains add up, compared with the last that was enough
        ((0.5, 0.54, 0.58), 0.1, 2),
        ((-3.0, -2.0, -2.5), 0.0, 1),
    ],
)
def test_evaluations_are_counted_since_the_last_that_was_better_by_enough(scores, min_delta, count):
    assert waited(evaluations(*scores), min_delta) == count
    assert stops_early(EarlyStopping(patience=2, min_delta=min_delta), evaluations(*scores)) == (count >= 2)
    assert not stops_early(None, evaluations(*scores))


def test_a_lower_loss_is_better_and_a_split_may_be_named():
    splits = {"m": {"accuracy": 0.8, "loss": 0.5}, "mm": {"accuracy": 0.6, "loss": 0.9}}
    assert selection_of(None, splits) == {}
    assert selection_of("loss", splits) == {"selection": pytest.approx(-0.7)}
    assert selection_of("mm/loss", splits) == {"selection": -0.9} and selection_of("m/accuracy", splits) == {"selection": 0.8}
    first, second = ({"step": i, "score": score, "selection": -loss} for i, score, loss in ((1, 0.9, 0.7), (2, 0.8, 0.5)))
    progress = Progress(2, [first, second], exported=1)
    assert progress.best is second and progress.improved
    assert progress.results()["best"] is second and progress.results()["median_last_half"] == pytest.approx(0.85)


def test_the_results_say_why_training_ended_and_what_that_spared():
    train = {"max_steps": 90, "select_by": "loss", "early_stopping": {"patience": 1}}
    run = RunConfig.model_validate({"train": train, "method": {"name": "vanilla"}})
    found = stopping_result(run, evaluations(0.5, 0.4), 20, 90)["early_stopping"]
    assert found["reason"] == "none of the last 1 evaluations was better in loss than that of step 10"
    assert (found["stopped"], found["planned_steps"], found["forward_units_spared"]) == (True, 90, 70 * 3)
    method = {"name": "yopo", "delta_steps": 2, "layer_steps": 1, "layers": 4}
    run = RunConfig.model_validate({"train": train, "method": method})
    found = stopping_result(run, evaluations(0.5, 0.4), 21, 90)["early_stopping"]
    assert json.loads(json.dumps(found))["forward_units_spared"] == 69 * 6.5
    assert stopping_result(run, evaluations(0.5, 0.4), 90, 90)["early_stopping"]["reason"] is None
    assert stopping_result(RunConfig(), evaluations(0.5), 20, 90) == {}


def test_what_selects_must_be_measured_and_evaluations_must_come_before_the_end():
    def told(**train):
        run = RunConfig.model_validate({"train": train})
        return [problem.key for problem in (*combination_problems(run, 1), *task_problems(run, TASKS["mnli"]))]

    assert told(select_by="validation_matched/loss") == told(select_by="accuracy") == told(select_by="loss") == []
    assert told(select_by="f1") == told(select_by="test/loss") == ["train.select_by"]
    assert told(early_stopping={"patience": 1}, eval_per_epoch=0) == ["train.early_stopping"]
