"""Answers of models that label the words of a text; for the steps see mat_ds/tasks/kinds/words.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import mlflow.transformers
import pandas
import torch

from .rows import BATCH, asked_rows, chosen_columns, refuse

NAMES = ("tokens",)


class WordTagger:
    """The object that MLflow calls.

    Args:
        pipeline: transformers' token-classification pipeline, of which model and tokenizer are used.
        max_length: maximum tokens of an input.
        columns: the task's name of its words.
        unseen: number of the label of words that the model does not read.
        spans: whether the labels are tags of spans, in BIO form.
    """

    def __init__(self, pipeline: Any, max_length: int, columns: Sequence[str], unseen: int, spans: bool):
        self._model, self._tokenizer = pipeline.model.eval(), pipeline.tokenizer
        self._tokenizer.padding_side = "right"
        self._max_length, self._columns, self._unseen, self._spans = max_length, tuple(columns), unseen, spans

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predicts the label of each word.

        Args:
            model_input: a list of lists of words, or of texts, which are split at blanks; or a table, records or columns in
                which they are named `tokens` or as in the task. Other columns are ignored.
            params: unused.

        Returns:
            `tags`, and `entities` if the labels are in BIO form.
        """
        table = chosen_columns(asked_rows(model_input), NAMES, self._columns)
        rows = [_words_of(row, value) for row, value in enumerate(table.iloc[:, 0])]
        found: list[list[str]] = []
        for first in range(0, len(rows), BATCH):
            found += self._tags(rows[first : first + BATCH])
        return pandas.DataFrame([self._answer(words, tags) for words, tags in zip(rows, found, strict=True)])

    @torch.inference_mode()
    def _tags(self, rows: list[list[str]]) -> list[list[str]]:
        words = [[*row[:1], *(self._lead + word for word in row[1:])] for row in rows]
        inputs = self._tokenizer(
            words, is_split_into_words=True, truncation=True, max_length=self._max_length, padding=True, return_tensors="pt"
        )
        names = self._model.config.id2label
        best = self._model(**inputs.to(self._model.device)).logits.argmax(-1).tolist()
        found = []
        for i, row in enumerate(rows):
            first: dict[int | None, int] = {}
            for word, number in zip(inputs.word_ids(i), best[i], strict=True):
                first.setdefault(word, number)
            found.append([names[first.get(word, self._unseen)] for word in range(len(row))])
        return found

    @property
    def _lead(self) -> str:
        """What goes before every word but the first, so that a list of words gives the tokens that its text gives."""
        text, plain, led = (
            self._tokenizer(given, is_split_into_words=isinstance(given, list), add_special_tokens=False)["input_ids"]
            for given in ("a a", ["a", "a"], ["a", " a"])
        )
        return " " if plain != text == led else ""

    def _answer(self, words: list[str], tags: list[str]) -> dict[str, Any]:
        return {"tags": tags, **({"entities": _entities(words, tags)} if self._spans else {})}


def _words_of(row: int, value: Any) -> list[str]:
    """The words of a row, which may also be a text with a JSON list, as in csv."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        try:
            found = json.loads(value) if value.strip().startswith("[") else None
        except (ValueError, RecursionError):
            found = None
        value = found if isinstance(found, list) else value.split()
    if not isinstance(value, list | tuple) or not value or not all(isinstance(w, str) and w.strip() for w in value):
        raise refuse(f"row {row}: is neither a list of words nor a text: {value!r}")
    return list(value)


def _entities(words: list[str], tags: list[str]) -> list[dict[str, Any]]:
    """The spans of tags in BIO form."""
    found: list[tuple[str, int, int]] = []
    before = "O"
    for number, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag != "O" and (prefix in "BS" or before[:1] in "ESO" or before.partition("-")[2] != kind):
            found.append((kind, number, number + 1))
        elif tag != "O":
            found[-1] = (kind, found[-1][1], number + 1)
        before = tag
    return [{"type": kind, "start": first, "end": end, "text": " ".join(words[first:end])} for kind, first, end in found]


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> WordTagger:
    """Called by MLflow to load the model in `path`."""
    given = (model_config[name] for name in ("max_length", "text", "unseen", "spans"))
    return WordTagger(mlflow.transformers.load_model(path), *given)
