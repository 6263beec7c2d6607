"""Metrics against scikit-learn and scipy, and the GLUE score against the paper's own rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mat_ds.tasks.metrics import glue_score, score, selection_score
from mat_ds.tasks.registry import TASKS

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, 40)
LOGITS = RANDOM.normal(size=(40, 2)) + 0.5 * np.eye(2)[LABELS]
PREDICTIONS = LOGITS.argmax(1)


def test_classification_metrics_are_scikit_learns():
    assert score(TASKS["cola"], LOGITS, LABELS) == {
        "matthews_correlation": pytest.approx(sklearn_metrics.matthews_corrcoef(LABELS, PREDICTIONS))
    }
    assert score(TASKS["mrpc"], LOGITS, LABELS) == {
        "accuracy": pytest.approx(sklearn_metrics.accuracy_score(LABELS, PREDICTIONS)),
        "f1": pytest.approx(sklearn_metrics.f1_score(LABELS, PREDICTIONS)),
    }


def test_regression_metrics_are_scipys_on_unrounded_scores():
    y, p = RANDOM.uniform(0, 5, 30), RANDOM.uniform(-1, 6, (30, 1))
    assert score(TASKS["stsb"], p, y) == {
        "pearson": pytest.approx(stats.pearsonr(y, p[:, 0]).statistic),
        "spearman": pytest.approx(stats.spearmanr(y, p[:, 0]).statistic),
    }


def test_a_model_that_answers_the_same_to_everything_scores_zero():
    assert score(TASKS["cola"], np.tile([0.0, 1.0], (40, 1)), LABELS)["matthews_correlation"] == 0.0
    assert score(TASKS["stsb"], np.ones((5, 1)), [1.0, 2.0, 3.0, 4.0, 5.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_selection_is_the_mean_of_a_tasks_metrics_over_its_dev_splits():
    assert selection_score({"validation": {"accuracy": 0.8, "f1": 0.9}}) == pytest.approx(0.85)
    assert selection_score({"validation_matched": {"accuracy": 0.8}, "validation_mismatched": {"accuracy": 0.6}}) == 0.7


def rows(cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte):
    """A row of the paper's table, in percent, as dev scores per task."""

    def scores(*percent):
        return {f"metric {i}": value / 100 for i, value in enumerate(percent)}

    single = {"cola": cola, "sst2": sst2, "qnli": qnli, "rte": rte}
    paired = {"mrpc": mrpc, "qqp": qqp, "stsb": stsb}
    return {
        **{task: {"validation": scores(value)} for task, value in single.items()},
        **{task: {"validation": scores(*values)} for task, values in paired.items()},
        "mnli": {"matched": scores(mnli[0]), "mismatched": scores(mnli[1])},
    }


@pytest.mark.parametrize(
    "published, row",
    [
        (85.11, rows(62.6, 93.8, (89.0, 92.1), (91.8, 89.0), (90.5, 90.2), (86.2, 86.0), 92.4, 74.7)),  # MAT, BERT-base
        (84.48, rows(61.0, 93.6, (88.4, 91.8), (91.7, 88.6), (90.4, 90.0), (86.1, 85.8), 92.0, 72.9)),  # SALT, BERT-base
        (90.35, rows(71.3, 97.1, (91.7, 93.9), (92.5, 90.0), (92.9, 92.6), (91.3, 91.4), 95.7, 90.6)),  # MAT, RoBERTa-large
    ],
)
def test_the_glue_score_averages_as_the_paper_does(published, row):
    assert glue_score(row) == pytest.approx(published, abs=0.01)
    assert glue_score({**row, "wnli": {"validation": {"accuracy": 0.0}}}) == glue_score(row)


def test_a_glue_score_of_some_tasks_is_none():
    with pytest.raises(ValueError, match="rte"):
        glue_score({"cola": {"validation": {"matthews_correlation": 0.5}}})
