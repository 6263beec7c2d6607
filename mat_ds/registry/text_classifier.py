"""A registered classifier as MLflow's python_function: maps raw texts to labels and probabilities, or scores.

This file is stored with every model and loaded where mat_ds may not be installed, so it must not import mat_ds. MLflow's own
wrapper of pipelines is not used: it returns only the best label or a table of dicts, and evaluates texts that look like Python
literals ("42", or a sentence in quotes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlflow.transformers
import pandas
from mlflow.exceptions import MlflowException

# Texts per forward pass.
BATCH = 32


# Names of transformers for the text, or the two of a pair.
NAMES = ("text", "text_pair")


class TextClassifier:
    """The object that MLflow calls.

    Args:
        pipeline: transformers' text-classification pipeline.
        max_length: maximum tokens of an input.
        columns: the task's names of its text, or the two of a pair.
    """

    def __init__(self, pipeline: Any, max_length: int, columns: Sequence[str] = NAMES[:1]):
        self._pipeline, self._columns = pipeline, tuple(columns)
        self._pipeline.tokenizer.padding_side = "right"
        self._regression = pipeline.model.config.num_labels == 1
        self._cut = {"truncation": True, "max_length": max_length, "batch_size": BATCH}

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predicts answers for texts, or for the text columns of a table.

        Args:
            model_input: a text or a list of texts; or a table, records or columns in which the texts are named as in
                transformers (`text`, `text_pair`) or as in the task. Other columns are ignored.
            params: unused.

        Returns:
            `label` and `probabilities` (by label, in the model's order); or `score`.
        """
        table = self._texts(_as_table(model_input))
        for row, found in enumerate(table.to_dict(orient="records")):
            if wrong := [name for name, text in found.items() if not isinstance(text, str)]:
                raise MlflowException.invalid_parameter_value(f"row {row}: {wrong[0]} is not a text: {found[wrong[0]]!r}")
        inputs = table.to_dict(orient="records") if len(self._columns) == 2 else table.iloc[:, 0].tolist()
        if not inputs:
            return pandas.DataFrame()
        function = "none" if self._regression else "softmax"
        found = self._pipeline(inputs, top_k=None, function_to_apply=function, **self._cut)
        return pandas.DataFrame([self._answer(scores) for scores in found])

    def _texts(self, table: pandas.DataFrame) -> pandas.DataFrame:
        """The text columns, renamed as in transformers."""
        names, known = NAMES[: len(self._columns)], list(table.columns)
        if len(names) == 1 and known == [0]:  # a plain list
            return table.set_axis(list(names), axis=1)
        there = [chosen for chosen in dict.fromkeys((names, self._columns)) if set(chosen) <= set(known)]
        if len(there) != 1 or any(known.count(name) > 1 for name in there[0]):
            wanted = " or ".join(dict.fromkeys((", ".join(names), ", ".join(self._columns))))
            which = "more than one of" if there else "none of"
            raise MlflowException.invalid_parameter_value(
                f"the columns {', '.join(map(repr, known))} have {which} what this model reads: {wanted}"
            )
        return table[list(there[0])].set_axis(list(names), axis=1)

    def _answer(self, scores: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer for one text, from its labels and scores, highest first."""
        if self._regression:
            return {"score": scores[0]["score"]}
        by_label = {found["label"]: found["score"] for found in scores}
        names = self._pipeline.model.config.id2label
        return {"label": scores[0]["label"], "probabilities": {names[i]: by_label[names[i]] for i in range(len(names))}}


def _as_table(model_input: Any) -> pandas.DataFrame:
    """The input as a table; unnamed texts become column 0."""
    if isinstance(model_input, pandas.DataFrame):
        return model_input
    if isinstance(model_input, pandas.Series):
        return pandas.DataFrame({0: model_input.tolist()})
    if isinstance(model_input, str):
        return pandas.DataFrame({0: [model_input]})
    if isinstance(model_input, Mapping):
        columns = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in model_input.items()}
        columns = {name: value if isinstance(value, list | tuple) else [value] for name, value in columns.items()}
        if len({len(value) for value in columns.values()}) > 1:
            raise MlflowException.invalid_parameter_value("columns have different numbers of rows")
        return pandas.DataFrame(columns)
    rows = model_input.tolist() if hasattr(model_input, "tolist") else list(model_input)
    if rows and all(isinstance(row, Mapping) for row in rows):
        return pandas.DataFrame(rows)
    return pandas.DataFrame({0: pandas.Series(rows, dtype=object)})


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextClassifier:
    """Called by MLflow to load the model in `path`."""
    return TextClassifier(mlflow.transformers.load_model(path), model_config["max_length"], model_config["text"])
