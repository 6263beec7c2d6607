"""Answers of classifiers and regressions of texts: labels and probabilities, or scores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow.transformers
import numpy
import pandas

from .members import SNAPSHOTS, Members
from .mixing import log_outcomes, mixed, told
from .rows import BATCH, asked_rows, chosen_columns, refuse

# Names of transformers for the text, or the two of a pair.
NAMES = ("text", "text_pair")


class TextClassifier:
    """The object that MLflow calls.

    Args:
        pipeline: transformers' text-classification pipeline.
        max_length: maximum tokens of an input.
        temperature: that logits are divided by on request; None if none was fitted.
        members: of the mixture; None if there are none.
        columns: the task's names of its text, or the two of a pair.

    Attributes:
        function: what makes probabilities of logits.
    """

    function = "softmax"

    def __init__(
        self,
        pipeline: Any,
        max_length: int,
        columns: Sequence[str] = NAMES[:1],
        temperature: float | None = None,
        members: Members | None = None,
    ):
        self._members = members or Members(Path("none"), pipeline.model, None)
        self._pipeline, self._columns, self._temperature = pipeline, tuple(columns), temperature
        self._pipeline.tokenizer.padding_side = "right"
        if pipeline.model.config.num_labels == 1:
            self.function = "none"
        self._cut = {"truncation": True, "max_length": max_length, "batch_size": BATCH}

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predicts answers for texts, or for the text columns of a table.

        Args:
            model_input: a text or a list of texts; or a table, records or columns in which the texts are named as in
                transformers (`text`, `text_pair`) or as in the task. Other columns are ignored.
            params: with `calibrated`, probabilities are those at the temperature that was fitted on the dev splits; with
                `mixture`, the mean of the snapshots'; with `uncertainty` or `abstain` too (`Members.asked`).

        Returns:
            `label` and `probabilities` (by label, in the model's order); or `score`.
        """
        table = chosen_columns(asked_rows(model_input), NAMES[: len(self._columns)], self._columns)
        for row, found in enumerate(table.to_dict(orient="records")):
            if wrong := [name for name, text in found.items() if not isinstance(text, str)]:
                raise refuse(f"row {row}: {wrong[0]} is not a text: {found[wrong[0]]!r}")
        inputs = table.to_dict(orient="records") if len(self._columns) == 2 else table.iloc[:, 0].tolist()
        if not inputs:
            return pandas.DataFrame()
        mixes, uncertain, threshold = self._members.asked(params or {})
        if mixes:
            return pandas.DataFrame(self._mixed(inputs, uncertain, threshold))
        if not (params or {}).get("calibrated"):
            found = self._pipeline(inputs, top_k=None, function_to_apply=self.function, **self._cut)
        elif self._temperature is None:
            raise refuse("no temperature was fitted for this model: leave `calibrated` out")
        else:
            logits = self._pipeline(inputs, top_k=None, function_to_apply="none", **self._cut)
            found = [self._at_temperature(scores, self._temperature) for scores in logits]
        return pandas.DataFrame([self.answer(scores) for scores in found])

    def _mixed(self, inputs: Sequence[Any], uncertain: bool, threshold: float | None) -> list[dict[str, Any]]:
        """The answers of the mixture."""
        names, logits = list(self._pipeline.model.config.id2label.values()), []
        for model in self._members.models:
            member = copy.copy(self._pipeline)
            member.model = model
            found = member(inputs, top_k=None, function_to_apply="none", **self._cut)
            logits.append([[{one["label"]: one["score"] for one in scores}[name] for name in names] for scores in found])
        independent = self.function == "sigmoid"
        log_p = log_outcomes(logits, independent)
        shares = numpy.exp(mixed(log_p))
        answers = []
        for row in shares[..., 1] if independent else shares[:, 0]:
            scores = [{"label": name, "score": float(share)} for name, share in zip(names, row, strict=True)]
            answers.append(self.answer(sorted(scores, key=lambda found: -found["score"])))
        return told(answers, log_p, uncertain, threshold)

    def _at_temperature(self, logits: list[dict[str, Any]], temperature: float) -> list[dict[str, Any]]:
        """The probabilities of logits that are divided by a temperature, in the same order."""
        z = numpy.array([found["score"] for found in logits]) / temperature
        p = numpy.exp(z - z.max()) if self.function == "softmax" else 1 / (1 + numpy.exp(-z))
        p = p / p.sum() if self.function == "softmax" else p
        return [{"label": found["label"], "score": float(share)} for found, share in zip(logits, p, strict=True)]

    def answer(self, scores: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer for one text, from its labels and scores, highest first."""
        if self.function == "none":
            return {"score": scores[0]["score"]}
        return {"label": scores[0]["label"], "probabilities": self.by_label(scores)}

    def by_label(self, scores: list[dict[str, Any]]) -> dict[str, float]:
        """The probability of each label, in the model's order."""
        found, names = {score["label"]: score["score"] for score in scores}, self._pipeline.model.config.id2label
        return {names[i]: found[names[i]] for i in range(len(names))}


def load_with(kind: type[TextClassifier], path: str, config: dict[str, Any]) -> TextClassifier:
    """The model that MLflow has in `path`, with its members."""
    pipeline = mlflow.transformers.load_model(path)
    members = Members(Path(path) / SNAPSHOTS, pipeline.model, config.get("abstention"))
    return kind(pipeline, config["max_length"], config["text"], config.get("temperature"), members)


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> TextClassifier:
    """Called by MLflow to load the model in `path`."""
    return load_with(TextClassifier, path, model_config)
