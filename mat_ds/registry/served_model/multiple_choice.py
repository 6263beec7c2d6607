"""Answers of multiple-choice models: the letter and text of a choice, and the probability of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy
import pandas
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

from .members import SNAPSHOTS, Members
from .mixing import log_outcomes, mixed, told
from .rows import BATCH, asked_rows, refuse


class ChoiceModel:
    """The object that MLflow calls.

    Args:
        folder: of the model.
        config: `max_length`, and the columns (`text`), of which the first `question` ones are the question's.
    """

    def __init__(self, folder: str, config: Mapping[str, Any]):
        self._model = AutoModelForMultipleChoice.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._tokenizer.padding_side = "right"
        self._cut = {"truncation": True, "max_length": config["max_length"], "padding": True, "return_tensors": "pt"}
        count = config["question"]
        self._question, self._choices = config["text"][:count], config["text"][count:]
        self._temperature = config.get("temperature")
        self._members = Members(Path(folder).parent / SNAPSHOTS, self._model, config.get("abstention"))

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Answers questions.

        Args:
            model_input: a table, records or columns with the task's columns: the question's, and the list of choices (or of
                each choice one). Other columns are ignored.
            params: with `calibrated`, probabilities are those at the temperature that was fitted on the dev splits; with
                `mixture`, the mean of the snapshots'; with `uncertainty` or `abstain` too (`Members.asked`).

        Returns:
            `label` (a letter), `choice` (a text) and `probabilities` (of each choice, in order).
        """
        table = asked_rows(model_input, lambda value: isinstance(value, str))
        if missing := [name for name in (*self._question, *self._choices) if name not in table.columns]:
            raise refuse(f"the column {', '.join(missing)} is missing")
        mixes, uncertain, threshold = self._members.asked(params or {})
        temperature = self._temperature if (params or {}).get("calibrated") else 1.0
        if temperature is None:
            raise refuse("no temperature was fitted for this model: leave `calibrated` out")
        rows = enumerate(table.to_dict(orient="records"))
        if mixes:
            return pandas.DataFrame([self._mixed(number, row, uncertain, threshold) for number, row in rows])
        return pandas.DataFrame([self._answer(number, row, temperature) for number, row in rows])

    def _answer(self, number: int, row: Mapping[Any, Any], temperature: float) -> dict[str, Any]:
        choices, (logits,) = self._read(number, row, [self._model])
        return _answer_of(choices, (logits / temperature).softmax(0).tolist())

    def _mixed(self, number: int, row: Mapping[Any, Any], uncertain: bool, threshold: float | None) -> dict[str, Any]:
        choices, logits = self._read(number, row, self._members.models)
        log_p = log_outcomes(torch.stack(logits).unsqueeze(1).numpy(), False)
        shares = numpy.exp(mixed(log_p))[0, 0].tolist()
        return told([_answer_of(choices, shares)], log_p, uncertain, threshold)[0]

    def _read(self, number: int, row: Mapping[Any, Any], models: Sequence[Any]) -> tuple[list[str], list[torch.Tensor]]:
        """The choices of a row, and each model's logits of them."""
        question, choices = [row[name] for name in self._question], self._choices_of(row)
        if not isinstance(choices, list) or not 2 <= len(choices) <= len(ascii_uppercase):
            raise refuse(f"row {number}: {', '.join(self._choices)} is not a list of 2 to {len(ascii_uppercase)} choices")
        if wrong := [text for text in (*question, *choices) if not isinstance(text, str)]:
            raise refuse(f"row {number}: not a text: {wrong[0]!r}")
        seconds = [f"{question[1]} {choice}" if len(question) == 2 else choice for choice in choices]
        logits: list[list[torch.Tensor]] = [[] for _ in models]
        with torch.inference_mode():
            for first in range(0, len(seconds), BATCH):
                some = seconds[first : first + BATCH]
                inputs = self._tokenizer([question[0]] * len(some), some, **self._cut)
                for model, found in zip(models, logits, strict=True):
                    found.append(model(**{name: value.unsqueeze(0) for name, value in inputs.items()}).logits[0])
        return choices, [torch.cat(found) for found in logits]

    def _choices_of(self, row: Mapping[Any, Any]) -> Any:
        if len(self._choices) > 1:
            return [row[name] for name in self._choices]
        value = row[self._choices[0]]
        value = value.get("text") if isinstance(value, Mapping) else value  # as ARC has them
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                return value
        if isinstance(value, tuple):
            return list(value)
        return value.tolist() if isinstance(value, numpy.ndarray) else value


def _answer_of(choices: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
    best = max(range(len(shares)), key=shares.__getitem__)
    return {"label": ascii_uppercase[best], "choice": choices[best], "probabilities": list(shares)}


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> ChoiceModel:
    """Called by MLflow to load the model in `path`."""
    return ChoiceModel(path, model_config)
