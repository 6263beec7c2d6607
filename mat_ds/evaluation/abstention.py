"""When a mixture should not answer: thresholds of its confidence, fitted on the dev splits.

A threshold answers the share `coverage` of the dev examples of which the mixture is surest. Its risk is what the share of
errors among further examples of the same source does not exceed: the exact binomial bound (Clopper and Pearson 1934) at 5% over
the number of thresholds, so that with a probability of 95% over dev sets no threshold promises too much (Geifman and El-Yaniv
2017, lemma 3.1; a union over fixed coverages in place of their binary search).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mat_ds.artifacts.members import ABSTENTION, SNAPSHOTS
from mat_ds.errors import Problem, UserError
from mat_ds.evaluation.calibration import COVERAGES
from mat_ds.registry.served_model.mixing import threshold_of
from mat_ds.storage.reading import read_json
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tracking.mirrored import Shape, checked

# The share of dev sets on which a threshold may promise too much.
DELTA = 0.05
Share = Annotated[float, Field(strict=False, ge=0, le=1)]


class _Step(Shape):
    coverage: Share
    confidence: Share
    risk: Share


class _File(Shape):
    steps: Annotated[list[_Step], Field(min_length=1)]


def bound_on_risk(wrong: int, answered: int, delta: float) -> float:
    """The risk at which as few as `wrong` errors in `answered` independent answers have the probability delta."""
    from scipy.stats import beta

    return 1.0 if wrong == answered else float(beta.ppf(1 - delta, wrong + 1, answered - wrong))


def right_answers(kind: Kind, logits: np.ndarray, examples: Sequence[Example]) -> NDArray[np.bool_]:
    """Whether the answer to each example is right, (N,); of several decisions all have to be."""
    found = kind.answered(logits, examples)
    same = np.asarray(found.predictions) == np.asarray(found.references)
    return same.reshape(len(examples), -1).all(axis=1)


def fitted_steps(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> list[dict[str, float]]:
    """A threshold for each coverage: the `confidence` from which on to answer, the `coverage` that this makes, and the `risk`.

    Args:
        confidences, right: of the dev examples, (N,), which did not train the model.
    """
    order = np.argsort(confidences, kind="stable")
    sure, wrong = confidences[order], ~right[order]
    found = []
    for share in COVERAGES:
        least = sure[len(sure) - max(1, round(share * len(sure)))]
        answered = int((sure >= least).sum())  # equally sure ones are answered together
        risk = bound_on_risk(int(wrong[-answered:].sum()), answered, DELTA / len(COVERAGES))
        found.append({"coverage": answered / len(sure), "confidence": float(least), "risk": risk})
    return found


def read_steps(folder: Path, name: str) -> list[dict[str, float]]:
    """The thresholds of the mixture that belongs to the model in a folder.

    Raises:
        UserError: if it has none, or the file is damaged.
    """
    file = folder.parent / SNAPSHOTS / ABSTENTION
    if not file.exists():
        reason = f"{name} has no {ABSTENTION}, which training writes at its end where snapshots and labelled dev examples are"
        raise UserError(Problem("abstain", None, reason, "let the run finish, or leave it out"))
    steps: list[dict[str, Any]] = checked(file, _File, read_json(file, "bring it back from a copy"))["steps"]
    return steps


def threshold_for(risk: float, steps: Sequence[dict[str, float]]) -> float:
    """The threshold that keeps a risk.

    Raises:
        UserError: if none promises it.
    """
    if (found := threshold_of(steps, risk)) is None:
        least = min(step["risk"] for step in steps)
        reason = f"no share of the dev examples shows so small a risk; the least that one shows is {least:.3f}"
        raise UserError(Problem("abstain", risk, reason, "allow more, or train with more dev examples"))
    return found
