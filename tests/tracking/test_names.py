"""Metrics are called as users of MLflow and of transformers' Trainer know them, and can be read back, also by earlier names."""

import pytest

from mat_ds.tracking.names import event_metrics, records_of
from tests.support.tracked import EVALUATION

STEP = {"event": "step", "step": 4, "time": 2.5, "loss": 1.0, "L": 0.5, "lr": 0.25, "gradient_norm": 2.0, "epoch": 0.5}
TELEMETRY = {"event": "telemetry", "step": 4, "time": 2.5, "cosine": 0.75}
MNLI = {"score": 0.5, "validation_matched": {"accuracy": 0.25}, "validation_mismatched": {"accuracy": 0.75}}


def points(records, names=event_metrics):
    return [(name, r["step"], round(1000 * r["time"]), value) for r in records for name, value in names(r).items()]


def test_metrics_of_a_step_and_an_evaluation_have_the_names_of_the_trainer():
    assert event_metrics(STEP) == {
        "train/loss": 1.0,
        "train/L": 0.5,
        "train/learning_rate": 0.25,
        "train/grad_norm": 2.0,
        "train/epoch": 0.5,
    }
    assert event_metrics({"event": "evaluation", "step": 4, "time": 3.0, **EVALUATION}) == {
        "eval/score": 0.5,
        "eval/accuracy": 0.5,
        "eval/average/score": 0.75,
        "eval/average/accuracy": 0.75,
    }
    assert event_metrics({"event": "evaluation", "step": 4, "time": 3.0, **MNLI}) == {
        "eval/score": 0.5,
        "eval/validation_matched/accuracy": 0.25,
        "eval/validation_mismatched/accuracy": 0.75,
    }


def test_memory_and_load_have_mlflows_names_and_units():
    load = {
        "cpu_percent": 50.0,
        "memory_percent": 25.0,
        "gpu_percent": 75.0,
        "gpu_memory_percent": 10.0,
        "gpu_memory_mib": 1000.0,
        "rank_memory_mib": [1, 2],
        "note": "x",
        "on": True,
    }
    assert event_metrics({"event": "system", "step": 1, "time": 1.0, **load}) == {
        "system/cpu_utilization_percentage": 50.0,
        "system/system_memory_usage_percentage": 25.0,
        "system/gpu_0_utilization_percentage": 75.0,
        "system/gpu_0_memory_usage_percentage": 10.0,
        "system/gpu_0_memory_usage_megabytes": pytest.approx(1048.576),
        "system/rank_0_memory_usage_megabytes": pytest.approx(1.048576),
        "system/rank_1_memory_usage_megabytes": pytest.approx(2.097152),
    }


@pytest.mark.parametrize("scores", [EVALUATION, MNLI, {"score": 0.5, "validation": {"score": 0.25, "accuracy": 0.75}}])
def test_steps_telemetry_and_evaluations_can_be_rebuilt_from_their_metrics(scores):
    records = [STEP, TELEMETRY, {"event": "evaluation", "step": 4, "time": 3.0, **scores}]
    found = points([*records, {"event": "system", "step": 4, "time": 3.0, "cpu_percent": 1.0}])
    assert records_of(found) == records
    # A step that was made twice: the later one counts.
    assert {"loss": 9.0, "L": 0.5}.items() <= records_of([*found, ("train/loss", 4, 2600, 9.0)])[1].items()


def test_a_run_of_an_earlier_version_can_be_read_back():
    def earlier(name):
        return [(f"{name}", 4, 3000, 0.75)]

    assert records_of([("loss", 4, 2500, 1.0), ("lr", 4, 2500, 0.25), ("gradient_norm", 4, 2500, 2.0)]) == [
        {"event": "step", "step": 4, "time": 2.5, "loss": 1.0, "lr": 0.25, "gradient_norm": 2.0}
    ]
    evaluation = {"event": "evaluation", "step": 4, "time": 3.0}
    assert records_of(earlier("score")) == [{**evaluation, "score": 0.75}]
    assert records_of(earlier("validation_matched/accuracy")) == [{**evaluation, "validation_matched": {"accuracy": 0.75}}]
    assert records_of(earlier("average/validation/f1")) == [{**evaluation, "average": {"validation": {"f1": 0.75}}}]
    assert records_of([*earlier("system/rank_memory_mib/0"), *earlier("results/last/score")]) == []
    # A run that was continued by this version has both names, of different steps.
    both = records_of([("loss", 4, 2500, 1.0), ("train/loss", 5, 2600, 2.0)])
    assert [(record["step"], record["loss"]) for record in both] == [(4, 1.0), (5, 2.0)]
