"""The metrics of tasks as local `evaluate` modules, computed by scikit-learn and scipy; nothing is downloaded.

Importing this module imports `evaluate`, which takes a second; only the rank that computes scores does so.
"""

from __future__ import annotations

import warnings
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
from mat_ds.tasks.kinds.outputs import Answered
from mat_ds.tasks.measures import merit
from mat_ds.tasks.ranking import RANKING, undefined
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.squad import exact, mean_over_questions, overlap

# Maps (references, predictions) to a score; the predictions are probabilities where the metric is one of `PROBABLE`.
Compute = Callable[[Any, Any], float]
PROBABLE = (*RANKING, "perplexity")


class LocalMetric(evaluate.Metric):  # type: ignore[misc]
    """An `evaluate` metric that is computed in this process and stores nothing on disk.

    Args:
        name: key of the score.
        score: computes it from (references, predictions), two arrays.
        references, predictions: those to come, from which their types are read: numbers or texts, or lists of them.
    """

    def __init__(self, name: str, score: Compute, references: np.ndarray, predictions: np.ndarray):
        self._score = score
        self._features = {"predictions": _feature(predictions), "references": _feature(references)}
        super().__init__(config_name=name, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.config_name, citation="", features=datasets.Features(self._features))

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.config_name: float(self._score(np.asarray(references), np.asarray(predictions)))}


def _feature(values: np.ndarray) -> Any:
    one = datasets.Value({"b": "int64", "i": "int64", "u": "int64", "U": "string"}.get(values.dtype.kind, "float64"))
    return datasets.List(one) if values.ndim == 2 else one


def _averaged(measure: Any, average: str) -> Compute:
    """A measure of each class, averaged; 0 for a class that is in the labels or the answers but not in what it divides by."""
    return lambda y, p: float(measure(y, p, average=average, zero_division=0.0))


def _correlation(measure: Callable[[Any, Any], Any]) -> Compute:
    """A correlation; 0 if one side is constant, where it is undefined."""

    def correlation(references: Any, predictions: Any) -> float:
        constant = min(len(set(references)), len(set(predictions))) < 2
        return 0.0 if constant else float(measure(references, predictions).statistic)

    return correlation


def _auroc(references: np.ndarray, probabilities: np.ndarray) -> float:
    """Area under the ROC curve; for several classes each against the rest, and the mean of these (macro)."""
    binary = references.ndim == 1 and probabilities.shape[1] == 2
    scores = probabilities[:, 1] if binary else probabilities
    return float(sklearn_metrics.roc_auc_score(references, scores, multi_class="ovr", average="macro"))


def _average_precision(references: np.ndarray, probabilities: np.ndarray) -> float:
    """Average precision, sum_n (R_n - R_{n-1}) P_n; for several classes the mean of each one's against the rest."""
    binary = references.ndim == 1 and probabilities.shape[1] == 2
    scores = probabilities[:, 1] if binary else probabilities
    return float(sklearn_metrics.average_precision_score(references, scores, average="macro"))


def _perplexity(tokens: np.ndarray, log_probabilities: np.ndarray) -> float:
    """The exponential of the mean negative log probability of a token, over all tokens of the split.

    Args:
        tokens: how many each response has.
        log_probabilities: of all of them together.
    """
    return float(np.exp(-log_probabilities.sum() / max(1, tokens.sum())))


COMPUTED: dict[str, Compute] = {
    "accuracy": sklearn_metrics.accuracy_score,
    "balanced_accuracy": sklearn_metrics.balanced_accuracy_score,
    "f1": sklearn_metrics.f1_score,
    **{f"f1_{average}": _averaged(sklearn_metrics.f1_score, average) for average in ("macro", "weighted", "micro")},
    "precision_macro": _averaged(sklearn_metrics.precision_score, "macro"),
    "recall_macro": _averaged(sklearn_metrics.recall_score, "macro"),
    "matthews_correlation": sklearn_metrics.matthews_corrcoef,
    "auroc": _auroc,
    "average_precision": _average_precision,
    "exact_match": lambda y, p: float(np.mean(np.all((y == p).reshape(len(y), -1), axis=1))),
    "perplexity": _perplexity,
    "pearson": _correlation(stats.pearsonr),
    "spearman": _correlation(stats.spearmanr),
    "mse": sklearn_metrics.mean_squared_error,
    "mae": sklearn_metrics.mean_absolute_error,
    "squad_em": partial(mean_over_questions, exact),
    "squad_f1": partial(mean_over_questions, overlap),
}


def _spans(measure: str, found: Answered) -> float:
    """One of seqeval's measures of spans, over all texts together (micro), as in CoNLL's evaluation."""
    import seqeval.metrics

    true, predicted = found.sequences or ([], [])
    return float(getattr(seqeval.metrics, measure)(true, predicted, zero_division=0))


SPANS: dict[str, Callable[[Answered], float]] = {
    f"seqeval_{name}": partial(_spans, f"{name}_score") for name in ("f1", "precision", "recall")
}


def score(spec: TaskSpec, kept: np.ndarray, examples: Sequence[Example]) -> dict[str, float]:
    """The task's metrics on one split, without those that its labels leave undefined (`ranking.undefined` says why).

    Args:
        kept: what the task's kind keeps of its logits, (N, ...) fp32.
        examples: the N examples, or their parts.
    """
    kind = kind_of(spec)
    kept, examples = kind.wholes(kept, examples)
    found = kind.answered(kept, examples)
    without = undefined(spec, examples)
    return {name: _value(name, found) for name in spec.metrics if name not in without}


def _value(name: str, found: Answered) -> float:
    """One metric of the answers."""
    if name in SPANS:
        return SPANS[name](found)
    references = np.asarray(found.references)
    given = np.asarray(found.probabilities if name in PROBABLE else found.predictions)
    metric = LocalMetric(name, COMPUTED[name], references, given)
    with warnings.catch_warnings():
        # Of classes that are in the answers only, which is no fault of the data.
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true", UserWarning)
        value: float = metric.compute(predictions=given.tolist(), references=references.tolist())[name]
    return value


def selection_score(splits: Mapping[str, Mapping[str, float]]) -> float:
    """The number that selects the best model, of which more is better: the mean of `merit` over the task's metrics and dev
    splits."""
    return mean(mean(merit(name, value) for name, value in metrics.items()) for metrics in splits.values())


def confusion(spec: TaskSpec, kept: np.ndarray, examples: Sequence[Example]) -> list[list[int]]:
    """Counts of examples by label (rows) and answer (columns), both in the order of the task's labels, which it must have."""
    kind = kind_of(spec)
    found = kind.answered(kept, examples)
    table = sklearn_metrics.confusion_matrix(found.references, found.predictions, labels=range(kind.outputs))
    return [[int(count) for count in row] for row in table]
