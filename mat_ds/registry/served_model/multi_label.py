"""Answers of multi-label classifiers: the labels that apply, and the probability of each."""

from __future__ import annotations

from typing import Any

from .text_classifier import TextClassifier, load_with


class MultiLabelClassifier(TextClassifier):
    """As `TextClassifier`, with `labels` and `probabilities`; each label is a decision of its own."""

    function = "sigmoid"

    def answer(self, scores: list[dict[str, Any]]) -> dict[str, Any]:
        probabilities = self.by_label(scores)
        return {"labels": [name for name, share in probabilities.items() if share > 0.5], "probabilities": probabilities}


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextClassifier:
    """Called by MLflow to load the model in `path`."""
    return load_with(MultiLabelClassifier, path, model_config)
