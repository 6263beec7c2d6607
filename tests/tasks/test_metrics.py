"""Metrics against scikit-learn and scipy, and the GLUE score against the paper's own rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mat_ds.tasks.example import Example
from mat_ds.tasks.metrics import score, selection_score
from mat_ds.tasks.registry import TASKS

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 40)
LOGITS = RANDOM.normal(size=(40, 2)) + 0.5 * np.eye(2)[LABELS]
PREDICTIONS = LOGITS.argmax(1)


def labelled(labels):
    return [Example(("a text",), label) for label in labels]


def test_classification_metrics_are_scikit_learns():
    assert score(TASKS["cola"], LOGITS, labelled(LABELS)) == {
        "matthews_correlation": pytest.approx(sklearn_metrics.matthews_corrcoef(LABELS, PREDICTIONS))
    }
    assert score(TASKS["mrpc"], LOGITS, labelled(LABELS)) == {
        "accuracy": pytest.approx(sklearn_metrics.accuracy_score(LABELS, PREDICTIONS)),
        "f1": pytest.approx(sklearn_metrics.f1_score(LABELS, PREDICTIONS)),
    }


def test_regression_metrics_are_scipys_on_unrounded_scores():
    y, p = RANDOM.uniform(0, 5, 30), RANDOM.uniform(-1, 6, (30, 1))
    assert score(TASKS["stsb"], p, labelled(y)) == {
        "pearson": pytest.approx(stats.pearsonr(y, p[:, 0]).statistic),
        "spearman": pytest.approx(stats.spearmanr(y, p[:, 0]).statistic),
    }


def test_a_model_that_answers_the_same_to_everything_scores_zero():
    assert score(TASKS["cola"], np.tile([0.0, 1.0], (40, 1)), labelled(LABELS))["matthews_correlation"] == 0.0
    assert score(TASKS["stsb"], np.ones((5, 1)), labelled(range(1, 6))) == {"pearson": 0.0, "spearman": 0.0}


def test_selection_is_the_mean_of_a_tasks_metrics_over_its_dev_splits():
    assert selection_score({"validation": {"accuracy": 0.8, "f1": 0.9}}) == pytest.approx(0.85)
    assert selection_score({"validation_matched": {"accuracy": 0.8}, "validation_mismatched": {"accuracy": 0.6}}) == 0.7
