"""GLUE's metrics as local `evaluate` modules, computed by scikit-learn and scipy; nothing is downloaded.

Importing this module imports `evaluate`, which takes a second; only the rank that computes scores does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import mean
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """An `evaluate` metric that is computed in this process and stores nothing on disk.

    Args:
        name: key of the score.
        score: computes it from (references, predictions).
        dtype: of both, `int64` for classes and `float64` for scores.
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
    """A correlation; 0 if one side is constant, where it is undefined."""
    constant = min(len(set(references)), len(set(predictions))) < 2
    return 0.0 if constant else float(measure(references, predictions).statistic)


# Of answers that are several decisions each, (N, C).
SETS: dict[str, Callable[[Any, Any], float]] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "f1_micro": partial(sklearn_metrics.f1_score, average="micro", zero_division=0.0),
    "f1_macro": partial(sklearn_metrics.f1_score, average="macro", zero_division=0.0),
}


def score(spec: TaskSpec, kept: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
    """The task's metrics on one split.

    Args:
        kept: what the task's kind keeps of its logits, (N, ...) fp32.
        examples: the N examples.
    """
    found = kind_of(spec).answered(kept, examples)
    scores: dict[str, float] = {}
    for name in spec.metrics:
        if isinstance(found.references, np.ndarray):
            scores[name] = float(SETS[name](found.references, found.predictions))
            continue
        scores |= METRICS[name]().compute(predictions=found.predictions, references=found.references)
    return scores


def selection_score(splits: Mapping[str, Mapping[str, float]]) -> float:
    """The number that selects the best model: the mean over the task's metrics and dev splits."""
    return mean(mean(metrics.values()) for metrics in splits.values())
