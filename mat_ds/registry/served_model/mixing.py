"""What a mixture of models answers, how sure its members are of it together, and when it abstains.

Shapes: M members, N examples. An example has D decisions with K outcomes each: one decision between all labels or choices, or
one of two outcomes for each label where labels are decisions of their own. log_p is (M, N, D, K), natural logarithms of
probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

Floats = Any


def log_outcomes(logits: Floats, independent: bool) -> Floats:
    """log_p of logits (M, N, C); `independent`: whether each label is a decision of its own."""
    z = numpy.asarray(logits, dtype=numpy.float64)
    z = numpy.stack([numpy.zeros_like(z), z], axis=-1) if independent else z[:, :, None]
    return z - numpy.logaddexp.reduce(z, axis=-1, keepdims=True)


def mixed(log_p: Floats) -> Floats:
    """The logarithm of the members' mean probabilities, (N, D, K)."""
    return numpy.logaddexp.reduce(log_p, axis=0) - math.log(len(log_p))


def logits_of(log_mean: Floats, independent: bool) -> Floats:
    """Logits (N, C) whose probabilities are those of `mixed`."""
    return log_mean[..., 1] - log_mean[..., 0] if independent else log_mean[:, 0]


def entropy(log_p: Floats) -> Floats:
    """- sum p log p in nats, its mean over the decisions of an example: (..., N)."""
    return -(numpy.exp(log_p) * log_p).sum(-1).mean(-1)


def uncertainty(log_p: Floats) -> dict[str, Floats]:
    """Of each example, (N,), in nats:

    entropy: of the mean of the members' probabilities;
    mutual_information: that less the members' mean entropy (Houlsby et al. 2011, equation 2: BALD): how much they disagree.
    """
    whole = entropy(mixed(log_p))
    return {"entropy": whole, "mutual_information": numpy.maximum(whole - entropy(log_p).mean(0), 0.0)}


def confidence(log_mean: Floats) -> Floats:
    """The probability of an example's answer, (N,): of the least sure decision, if there are several."""
    return numpy.exp(log_mean.max(-1).min(-1))


def threshold_of(steps: Sequence[Mapping[str, float]], risk: float) -> float | None:
    """The confidence below which to abstain, so that at most a share `risk` of the answers is wrong; None if none promises it.

    Args:
        steps: with the `confidence` from which on answers are given, and the `risk` that is then not exceeded
            (`mat_ds.evaluation.abstention`).
    """
    return min((step["confidence"] for step in steps if step["risk"] <= risk), default=None)


def told(answers: Sequence[Mapping[str, Any]], log_p: Floats, uncertain: bool, threshold: float | None) -> list[dict[str, Any]]:
    """Answers with what is known of their uncertainty; an answer below the threshold is None, its probabilities stay.

    Args:
        answers: of the mixture, one an example, the answer itself before `probabilities`.
        uncertain: whether to add `entropy` and `mutual_information`.
        threshold: of the confidence; None: it never abstains.
    """
    found = [dict(answer) for answer in answers]
    sure = confidence(mixed(log_p))
    if threshold is not None:
        for answer, share in zip(found, sure, strict=True):
            if abstains := bool(share < threshold):
                answer |= {name: None for name in answer if name != "probabilities"}
            answer["abstains"] = abstains
    if uncertain:
        for name, values in {"confidence": sure, **uncertainty(log_p)}.items():
            for answer, value in zip(found, values, strict=True):
                answer[name] = float(value)
    return found
