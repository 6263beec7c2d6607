"""A registered classifier as MLflow's python_function: raw texts in, labels and probabilities, or scores, out.

This file is stored with every model, and loaded from there where mat_ds is not installed: it may import nothing of mat_ds.
MLflow's own wrapper of a transformers pipeline answers with the best label alone or with a table of dicts, and reads a text
that looks like a literal of Python ("42", or a sentence in quotes) as that literal.
"""

from __future__ import annotations

from typing import Any

import mlflow.transformers
import pandas
from mlflow.exceptions import MlflowException

# Texts of one pass.
BATCH = 32


class TextClassifier:
    """What MLflow calls.

    Args:
        pipeline: transformers' text-classification pipeline.
        max_length: tokens an input is cut at.
    """

    def __init__(self, pipeline: Any, max_length: int):
        self._pipeline = pipeline
        self._pipeline.tokenizer.padding_side = "right"
        self._regression = pipeline.model.config.num_labels == 1
        self._cut = {"truncation": True, "max_length": max_length, "batch_size": BATCH}

    def predict(self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """The answers to a column of texts, or to the columns `text` and `text_pair`.

        Returns:
            `label` and `probabilities`, by label in the order of their numbers; or `score`.
        """
        texts = model_input.to_dict(orient="records")
        for row, found in enumerate(texts):
            if wrong := [name for name, text in found.items() if not isinstance(text, str)]:
                raise MlflowException.invalid_parameter_value(f"row {row}: {wrong[0]} is no text: {found[wrong[0]]!r}")
        pairs = len(model_input.columns) == 2
        inputs = texts if pairs else [text for found in texts for text in found.values()]
        function = "none" if self._regression else "softmax"
        found = self._pipeline(inputs, top_k=None, function_to_apply=function, **self._cut)
        return pandas.DataFrame([self._answer(scores) for scores in found])

    def _answer(self, scores: list[dict[str, Any]]) -> dict[str, Any]:
        """One text's answer, from its labels with their scores, the highest first."""
        if self._regression:
            return {"score": scores[0]["score"]}
        by_label = {found["label"]: found["score"] for found in scores}
        names = self._pipeline.model.config.id2label
        return {"label": scores[0]["label"], "probabilities": {names[i]: by_label[names[i]] for i in range(len(names))}}


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextClassifier:
    """What MLflow calls to load the model that lies in `path`."""
    return TextClassifier(mlflow.transformers.load_model(path), model_config["max_length"])
