"""Metrics against scikit-learn and scipy, and the GLUE score against the paper's own rows."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mat_ds.artifacts.confusion import confused
from mat_ds.errors import UserError
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.measures import score_title
from mat_ds.tasks.metrics import confusion, score, selection_score
from mat_ds.tasks.ranking import undefined, undefined_problems
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.written import read_spec

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


# Three classes that are not equally frequent; one of them is never answered.
REAL = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
SAID = np.array([0, 0, 1, 0, 1, 0, 1, 0, 0])


def logits_of(probabilities):
    return np.log(np.asarray(probabilities))


def three(metrics):
    return TaskSpec(name="three", text=("text",), labels=("a", "b", "c"), metrics=metrics)


def by_class(c):
    """True positives, what was said to be c, and what is c."""
    return sum((c == REAL) & (c == SAID)), sum(c == SAID), sum(c == REAL)


def test_averages_over_classes_are_those_of_their_definitions():
    found = score(
        three(["f1_macro", "f1_weighted", "f1_micro", "precision_macro", "recall_macro", "balanced_accuracy"]),
        logits_of(0.9 * np.eye(3)[SAID] + 0.05),
        labelled(REAL),
    )
    counts = [by_class(c) for c in range(3)]
    precision = [hits / said if said else 0.0 for hits, said, _ in counts]
    recall = [hits / real for hits, _, real in counts]
    f1 = [2 * hits / (said + real) for hits, said, real in counts]
    assert found == pytest.approx({
        "f1_macro": np.mean(f1), "f1_weighted": sum(f * real for f, (*_, real) in zip(f1, counts, strict=True)) / 9,
        "f1_micro": np.mean(REAL == SAID), "precision_macro": np.mean(precision), "recall_macro": np.mean(recall),
        "balanced_accuracy": np.mean(recall),
    })  # fmt: skip


def chance_of_order(positive, negative):
    """The share of pairs in which the positive scores more, ties counting one half: the area under the ROC curve."""
    return np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative])


def area_of_precision(real, scores):
    """Sum over thresholds, from the highest, of the gain in recall times the precision there."""
    total = recall = 0.0
    for threshold in sorted(set(scores), reverse=True):
        above = scores >= threshold
        total += (sum(real & above) / sum(real) - recall) * sum(real & above) / sum(above)
        recall = sum(real & above) / sum(real)
    return total


def test_ranking_metrics_are_those_of_their_definitions():
    p = RANDOM.dirichlet(np.ones(3), 9)
    areas = [chance_of_order(p[c == REAL, c], p[c != REAL, c]) for c in range(3)]
    precisions = [area_of_precision(c == REAL, p[:, c]) for c in range(3)]
    found = score(three(["auroc", "average_precision"]), logits_of(p), labelled(REAL))
    assert found == pytest.approx({"auroc": np.mean(areas), "average_precision": np.mean(precisions)})

    two = TASKS["cola"].model_copy(update={"metrics": ("auroc", "average_precision")})
    q = np.stack([1 - p[:, 0], p[:, 0]], axis=1)
    assert score(two, logits_of(q), labelled(REAL == 1)) == pytest.approx(
        {"auroc": chance_of_order(q[REAL == 1, 1], q[REAL != 1, 1]), "average_precision": area_of_precision(REAL == 1, q[:, 1])}
    )


def test_a_split_without_a_class_leaves_ranking_metrics_out_and_says_why():
    spec = three(["accuracy", "auroc"])
    assert score(spec, logits_of(np.eye(3)[SAID[:6]] + 0.1), labelled(REAL[:6])) == {"accuracy": pytest.approx(4 / 6)}
    assert undefined(spec, labelled(REAL[:6])) == {"auroc": "none of its 6 examples are 'c'"}
    (problem,) = undefined_problems(spec, {"validation": labelled(REAL), "hard": labelled([1, 1])})
    assert (problem.value, problem.reason) == ("auroc", "is undefined on hard: none of its 2 examples are 'a'")
    assert undefined(spec, labelled([0, 0])) == {"auroc": "all of its 2 examples are 'a'"}
    assert undefined(three(["accuracy"]), labelled([1])) == {}


def test_errors_of_a_regression_count_negatively_in_the_score():
    spec = TASKS["stsb"].model_copy(update={"metrics": ("mse", "mae")})
    found = score(spec, np.array([[1.0], [2.0], [4.0]]), labelled([1.0, 4.0, 1.0]))
    assert found == pytest.approx({"mse": (4 + 9) / 3, "mae": 5 / 3})
    assert selection_score({"validation": found}) == pytest.approx(-(13 / 3 + 5 / 3) / 2)
    better, worse = ({"validation": {"mse": value}} for value in (0.5, 0.7))
    assert selection_score(better) > selection_score(worse)
    assert score_title(["mse"]) == "-mean squared error"


def test_a_metric_must_fit_its_kind_and_go_in_one_direction():
    def refused(**keys):
        return [str(problem) for problem in kind_of(TaskSpec(name="x", text=("text",), **keys)).problems()]

    (told,) = refused(labels=("a", "b"), metrics=["pearson"])
    assert "does not fit the task; for classification there are accuracy, f1," in told
    (told,) = refused(metrics=["mse", "pearson"])
    assert "better when it is lower" in told
    assert refused(metrics=["mse", "mae"]) == refused(labels=("a", "b", "c"), metrics=["auroc"]) == []
    with pytest.raises(UserError, match=r"'f1_macro', .*'mse' or 'mae'"):
        read_spec({"name": "x", "text": "text", "labels": ["a", "b"], "metrics": ["f1_marco"]}, "x.yaml")


def test_the_confusion_matrix_counts_answers_by_label():
    counts = confusion(three(["accuracy"]), logits_of(np.eye(3)[SAID] + 0.1), labelled(REAL))
    assert counts == [[sum((gold == REAL) & (said == SAID)) for said in range(3)] for gold in range(3)]
    assert confused("abc", counts)[0] == ("c", "a", 2)


def test_metrics_of_several_decisions_an_example_are_over_those_decisions():
    metrics = ("f1_micro", "f1_macro", "f1_weighted", "accuracy", "exact_match", "auroc", "average_precision")
    spec = TaskSpec(name="x", text=("text",), kind="multi_label", labels=("a", "b", "c"), metrics=metrics)
    real = RANDOM.integers(0, 2, (12, 3))
    logits = RANDOM.normal(size=(12, 3))
    said = logits > 0
    counts = [(sum(real[:, c] & said[:, c]), sum(said[:, c]) + sum(real[:, c])) for c in range(3)]
    f1, same = (
        [2 * hits / all_ for hits, all_ in counts],
        np.mean([np.array_equal(r, s) for r, s in zip(real, said, strict=True)]),
    )
    assert score(spec, logits, labelled([tuple(np.flatnonzero(row)) for row in real])) == pytest.approx({
        "f1_micro": 2 * sum(hits for hits, _ in counts) / sum(all_ for _, all_ in counts), "f1_macro": np.mean(f1),
        "f1_weighted": np.average(f1, weights=real.sum(0)), "accuracy": same, "exact_match": same,
        "auroc": np.mean([chance_of_order(logits[real[:, c] == 1, c], logits[real[:, c] == 0, c]) for c in range(3)]),
        "average_precision": np.mean([area_of_precision(real[:, c] == 1, logits[:, c]) for c in range(3)]),
    })  # fmt: skip
    assert undefined(spec, labelled([(0, 1), (0,), (0, 2)]))["auroc"] == "all of its 3 examples are 'a'"
