"""What a model's logits say of a text: a label and the probability of each, or a score; and the same as GLUE takes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from mat_ds.tasks.spec import TaskSpec

SUBMISSION_HEADER = "index\tprediction"


def answers(spec: TaskSpec, logits: np.ndarray) -> list[dict[str, Any]]:
    """An answer for each row of logits (N, C) fp32: `label` and `probabilities` by label, or `score`, of a regression."""
    if spec.regression:
        return [{"score": float(row[0])} for row in logits]
    return [
        {
            "label": spec.labels[int(np.argmax(row))],
            "probabilities": dict(zip(spec.labels, map(float, row), strict=True)),
        }
        for row in softmax(logits, axis=1)
    ]


def submitted(spec: TaskSpec, logits: np.ndarray) -> list[str]:
    """What the GLUE server is to be told of each row of logits (N, C): the number or the name of a label, or a score within
    the task's range."""
    if spec.regression:
        low, high = spec.range or (float("-inf"), float("inf"))
        return [f"{min(max(value, low), high):.3f}" for value in logits[:, 0]]
    return [spec.labels[label] if spec.submit_names else str(label) for label in np.argmax(logits, axis=1)]
