"""Metrics of the GLUE family as local `evaluate` modules: nothing is downloaded, scikit-learn and scipy compute.

Importing this module imports `evaluate`, which takes a second; only the rank that scores does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """A metric of predictions and references that computes in this process and keeps nothing on disk.

    Args:
        name: key of the score.
        score: what computes it from (references, predictions).
        dtype: their type, `int64` for classes and `float64` for scores.
    """

    def __init__(self, name: str, score: Callable[[Any, Any], float], dtype: str):
        self._score, self._dtype = score, dtype
        super().__init__(config_name=name, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({name: datasets.Value(self._dtype) for name in ("predictions", "references")})
        return evaluate.MetricInfo(description=self.config_name, citation="", features=features)

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return {self.config_name: float(self._score(references, predictions))}


METRICS: dict[str, Callable[[], LocalMetric]] = {
    "accuracy": lambda: LocalMetric("accuracy", sklearn_metrics.accuracy_score, "int64"),
    "f1": lambda: LocalMetric("f1", sklearn_metrics.f1_score, "int64"),
    "matthews_correlation": lambda: LocalMetric("matthews_correlation", sklearn_metrics.matthews_corrcoef, "int64"),
    "pearson": lambda: LocalMetric("pearson", lambda y, p: _correlation(stats.pearsonr, y, p), "float64"),
    "spearman": lambda: LocalMetric("spearman", lambda y, p: _correlation(stats.spearmanr, y, p), "float64"),
}


def _correlation(measure: Callable[[Any, Any], Any], references: Any, predictions: Any) -> float:
    """0 where a constant side leaves the correlation undefined, as for a model that answers the same to everything."""
    constant = min(len(set(references)), len(set(predictions))) < 2
    return 0.0 if constant else float(measure(references, predictions).statistic)


def score(spec: TaskSpec, logits: np.ndarray, labels: Sequence[float]) -> dict[str, float]:
    """The task's metrics on one split.

    Args:
        logits: (N, C) fp32.
        labels: N class numbers or scores.
    """
    predictions = kind_of(spec).predictions(logits)
    scores: dict[str, float] = {}
    for name in spec.metrics:
        scores |= METRICS[name]().compute(predictions=predictions.tolist(), references=list(labels))
    return scores


def selection_score(splits: Mapping[str, Mapping[str, float]]) -> float:
    """The one number that selects a model: the mean of the task's metrics, over its dev splits."""
    return mean(mean(metrics.values()) for metrics in splits.values())


GLUE_SCORE_TASKS = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")


def glue_score(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> float:
    """The GLUE score as MAT's paper takes it, in percent: the mean over eight tasks (not WNLI) of each task's own mean,
    accuracy with F1, Pearson with Spearman, MNLI matched with mismatched.

    Args:
        scores: task -> dev split -> metric -> value in [0, 1].

    Raises:
        ValueError: naming the tasks that are missing.
    """
    missing = [task for task in GLUE_SCORE_TASKS if task not in scores]
    if missing:
        raise ValueError(f"the GLUE score needs all of {', '.join(GLUE_SCORE_TASKS)}; missing: {', '.join(missing)}")
    return 100 * mean(selection_score(scores[task]) for task in GLUE_SCORE_TASKS)
