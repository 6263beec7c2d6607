"""What is known of each metric by its name: title, direction, scale. Computing them is another module's: this imports nothing.

Whether less is better is said here and nowhere else. The `score` of an evaluation counts such a metric negatively, as the
scorers of scikit-learn do (`neg_log_loss`), so that of two scores the higher is always the better one, whoever compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any, NamedTuple


class Measure(NamedTuple):
    """A quantity that an evaluation reports.

    Attributes:
        title: in reports.
        lower: whether less is better.
        share: whether reports show it in percent.
    """

    title: str
    lower: bool = False
    share: bool = True


# What a task may name as its metrics.
METRICS = {
    "accuracy": Measure("accuracy"),
    "balanced_accuracy": Measure("balanced accuracy"),
    "f1": Measure("F1"),
    "f1_macro": Measure("macro F1"),
    "f1_weighted": Measure("weighted F1"),
    "f1_micro": Measure("micro F1"),
    "precision_macro": Measure("macro precision"),
    "recall_macro": Measure("macro recall"),
    "matthews_correlation": Measure("Matthews correlation"),
    "auroc": Measure("AUROC"),
    "average_precision": Measure("average precision"),
    "exact_match": Measure("exact match"),
    "squad_em": Measure("SQuAD exact match"),
    "squad_f1": Measure("SQuAD F1"),
    "seqeval_f1": Measure("F1 of spans"),
    "seqeval_precision": Measure("precision of spans"),
    "seqeval_recall": Measure("recall of spans"),
    "perplexity": Measure("perplexity", lower=True, share=False),
    "pearson": Measure("Pearson correlation"),
    "spearman": Measure("Spearman correlation"),
    "mse": Measure("mean squared error", lower=True, share=False),
    "mae": Measure("mean absolute error", lower=True, share=False),
}
# The mean loss of a split, which every evaluation reports beside the metrics.
LOSS = "loss"
MEASURES = {**METRICS, LOSS: Measure("loss", lower=True, share=False)}


def merit(name: str, value: float) -> float:
    """A metric's value as a score, of which more is better: negative where less is better."""
    return -value if MEASURES[name].lower else value


def measure_of(name: str) -> Measure:
    """What is known of a metric; of one that another version computed, its name."""
    return MEASURES.get(name, Measure(name))


def score_title(names: Iterable[str]) -> str:
    """What a score is that is made of these metrics, such as `mean of accuracy and F1`; `-loss` where less is better."""
    titles = [f"{'-' if measure.lower else ''}{measure.title}" for measure in map(measure_of, names)]
    return f"mean of {' and '.join(titles)}" if len(titles) > 1 else (titles or ["score"])[0]


def dev_loss(evaluation: Mapping[str, Any]) -> float | None:
    """The mean over the splits of an evaluation of their losses; None if an earlier version made it."""
    found = [split[LOSS] for split in evaluation.values() if isinstance(split, dict) and LOSS in split]
    return mean(found) if found else None
