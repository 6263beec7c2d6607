"""How far probabilities can be trusted, and the temperature that makes them more so.

An example counts by its answer, the label of the highest probability, and the confidence, which is that probability. Where
labels are decisions of their own (multi-label), each decision counts as an example with the two classes no and yes.

- NLL: mean of -log p(label). (Not scikit-learn's `log_loss`, which takes no probability to be below 2e-16.)
- Brier score: mean over examples of the sum over classes of (p - [is the label])^2 (Brier 1950), by scikit-learn; from 0 to 2.
- ECE: the expected calibration error (Guo et al. 2017, equation 3): mean over 15 bins of equal width of the distance between
  accuracy and confidence, weighted by their examples. `ece_adaptive`: the same with bins of equally many examples (Nguyen and
  O'Connor 2015). scikit-learn has neither; importing torchmetrics, which has the first, would take each run five seconds.
- AURC: the mean over n of the error among the n most confident answers (Geifman et al. 2019): how well a model knows when to
  abstain; no temperature changes it where there are two classes.

Probabilities are computed in fp64 from logits in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mat_ds.artifacts.calibrated import LEAST, MOST
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind

BINS = 15
# Coverages at which the risk is listed for a curve.
COVERAGES = tuple(round(0.05 * n, 2) for n in range(1, 21))
Floats = NDArray[np.float64]


class Judged(NamedTuple):
    """The probabilities (N, C) and labels (N,) of N decisions."""

    p: Floats
    y: NDArray[np.int64]

    @property
    def confidence(self) -> Floats:
        return self.p.max(axis=1)

    @property
    def right(self) -> Floats:
        return (self.p.argmax(axis=1) == self.y).astype(np.float64)


def judged(kind: Kind, kept: np.ndarray, examples: Sequence[Example], temperature: float = 1.0) -> Judged:
    """The decisions of a kind that has probabilities.

    Args:
        kept: what it keeps of its logits, (N, ...).
        examples: with labels.
        temperature: that the logits are divided by.
    """
    found = kind.answered(kept.astype(np.float64) / temperature, examples)
    assert found.probabilities is not None
    p, y = found.probabilities, np.asarray(found.references)
    if y.ndim == 2:
        p, y = np.stack([1 - p.ravel(), p.ravel()], axis=1), y.ravel()
    return Judged(p / p.sum(axis=1, keepdims=True), y.astype(np.int64))


def nll(found: Judged) -> float:
    """Mean of -log p(label)."""
    return float(-np.log(np.maximum(found.p[np.arange(len(found.y)), found.y], 1e-300)).mean())


def quality(found: Judged) -> dict[str, float]:
    """`nll`, `brier`, `ece`, `ece_adaptive` and `aurc`; less of each is better."""
    from sklearn.metrics import brier_score_loss

    adaptive = [rows for rows in np.array_split(found.confidence.argsort(kind="stable"), BINS) if len(rows)]
    return {
        "nll": nll(found),
        "brier": float(brier_score_loss(found.y, found.p, labels=range(found.p.shape[1]), scale_by_half=False)),
        "ece": _gap(found, _of_equal_width(found)),
        "ece_adaptive": _gap(found, adaptive),
        "aurc": float(_risks(found).mean()),
    }


def _of_equal_width(found: Judged) -> list[NDArray[np.int64]]:
    """The examples of each bin that has any: those with a confidence in ((b - 1) / 15, b / 15]."""
    bins = np.ceil(found.confidence * BINS).clip(1, BINS)
    return [rows for b in range(1, BINS + 1) if len(rows := np.flatnonzero(bins == b))]


def _gap(found: Judged, bins: Sequence[NDArray[np.int64]]) -> float:
    gaps = (len(rows) * abs(found.right[rows].mean() - found.confidence[rows].mean()) for rows in bins)
    return float(sum(gaps) / len(found.y))


def _risks(found: Judged) -> Floats:
    """The error among the n most confident answers, for n = 1 .. N; of equally confident ones in any order, on average."""
    confidence = np.round(found.confidence, 12)
    _, group = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(group, 1 - found.right) / np.bincount(group)  # the mean over those that are equally confident
    risks: Floats = np.cumsum(wrong[np.sort(group)]) / np.arange(1, len(group) + 1)
    return risks


def curves(found: Judged) -> dict[str, list[Any]]:
    """Points for a reliability diagram, `confidence`, `accuracy` and `share` of each bin, and the `risk` at each `coverage`."""
    bins, risks = _of_equal_width(found), _risks(found)
    return {
        "reliability": [
            {"confidence": float(found.confidence[rows].mean()), "accuracy": float(found.right[rows].mean()),
             "share": len(rows) / len(found.y)} for rows in bins
        ],
        "risk_coverage": [
            {"coverage": share, "risk": float(risks[max(1, round(share * len(risks))) - 1])} for share in COVERAGES
        ],
    }  # fmt: skip


def measured_at(kind: Kind, kept: np.ndarray, examples: Sequence[Example], temperature: float | None) -> dict[str, Any]:
    """`calibration` of a split in an evaluation: the quantities `before`, and `after` at the model's own temperature, if it has
    one. On the dev splits that it was fitted on, `after` flatters a little."""
    before = judged(kind, kept, examples)
    after = (
        {} if temperature is None else {"temperature": temperature, "after": quality(judged(kind, kept, examples, temperature))}
    )
    return {"before": quality(before), **after, **curves(before)}


# What the kind keeps of the logits of some examples, and these.
Part = tuple[np.ndarray, Sequence[Example]]


def fitted_temperature(kind: Kind, parts: Sequence[Part]) -> float:
    """The temperature of the least NLL over all examples, from 0.1 to 10.

    The NLL is convex in 1 / T, so it has one minimum, and a bounded scalar minimiser finds it.
    """
    from scipy.optimize import minimize_scalar

    total = sum(len(examples) for _, examples in parts)

    def objective(log_temperature: float) -> float:
        found = ((judged(kind, kept, examples, math.exp(log_temperature)), len(examples)) for kept, examples in parts)
        return sum(nll(one) * count for one, count in found) / total

    bounds = (math.log(LEAST), math.log(MOST))
    return float(math.exp(minimize_scalar(objective, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def halves(split: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two halves of the examples of a split, by a key: the same in every run."""
    order = sorted(range(count), key=lambda i: seed_from("calibration", split, i))
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def calibrate(kind: Kind, splits: Mapping[str, Part]) -> dict[str, Any]:
    """`calibration` of `results.json`: the temperature, and each split's quantities before it and after.

    A temperature that is judged by the examples it was fitted to looks better than it is. So `after` is cross-fitted: each half
    of the examples is judged with the temperature of the other half. The `temperature` itself is fitted on all.

    Args:
        splits: the dev splits; together they have at least two examples.
    """
    by_half = {split: halves(split, len(examples)) for split, (_, examples) in splits.items()}

    def half(split: str, number: int) -> Part:
        (kept, examples), rows = splits[split], by_half[split][number]
        return kept[rows], [examples[i] for i in rows]

    each = [fitted_temperature(kind, [half(split, number) for split in splits]) for number in (0, 1)]
    found = {}
    for split, (kept, examples) in splits.items():
        before = judged(kind, kept, examples)
        ends = [judged(kind, *half(split, number), each[1 - number]) for number in (0, 1)]
        width = max(end.p.shape[1] for end in ends)
        p = np.concatenate([np.pad(end.p, ((0, 0), (0, width - end.p.shape[1]))) for end in ends])
        after = Judged(p, np.concatenate([end.y for end in ends]))
        found[split] = {
            "before": quality(before),
            "after": quality(after),
            **curves(before),
            "reliability_after": curves(after)["reliability"],
        }
    return {
        "temperature": fitted_temperature(kind, list(splits.values())),
        "fitted_on": list(splits),
        "examples": sum(len(examples) for _, examples in splits.values()),
        "temperatures_of_halves": each,
        "splits": found,
    }
