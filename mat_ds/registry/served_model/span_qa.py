"""Answers of extractive question answering: a span of the context, where it is, and its probability."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pandas
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from .rows import BATCH, asked_rows, chosen_columns, refuse

NAMES = ("question", "context")


class SpanModel:
    """The object that MLflow calls.

    Args:
        folder: of the model.
        config: `max_length`, the columns (`text`), and what else decides about windows and answers.
    """

    def __init__(self, folder: str, config: Mapping[str, Any]):
        self._model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self._tokenizer.padding_side = "right"
        self._config = config
        # Copies of modules of mat_ds that go along with the model; they are not in this folder before that.
        self._windows, self._spans = (import_module(f".{name}", __package__) for name in ("windows", "spans"))

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Answers questions.

        Args:
            model_input: a table, records or columns with the question and the context, under these names or the task's. Other
                columns are ignored.
            params: unused.

        Returns:
            `answer`, where it begins and ends in the context (`start`, `end`), and its probability (`score`).
        """
        table = chosen_columns(asked_rows(model_input), NAMES, self._config["text"])
        rows = table.to_dict(orient="records")
        for number, row in enumerate(rows):
            if wrong := [name for name, text in row.items() if not isinstance(text, str)]:
                raise refuse(f"row {number}: {wrong[0]} is not a text: {row[wrong[0]]!r}")
        found: list[dict[str, Any]] = []
        for first in range(0, len(rows), BATCH):
            some = rows[first : first + BATCH]
            found += self._answers([row["question"] for row in some], [row["context"] for row in some])
        return pandas.DataFrame(found)

    @torch.inference_mode()
    def _answers(self, questions: list[str], contexts: list[str]) -> list[dict[str, Any]]:
        config, tokenizer = self._config, self._tokenizer
        cut = self._windows.cut(tokenizer, questions, contexts, config["max_length"], config["doc_stride"])
        kept = []
        for first in range(0, len(cut.of), BATCH):
            some = range(first, min(first + BATCH, len(cut.of)))
            inputs = tokenizer.pad(
                {name: [values[i] for i in some] for name, values in cut.inputs.items()}, return_tensors="pt"
            )
            places = self._windows.targets(cut, some, [None] * len(some), inputs["input_ids"].shape[1])
            output = self._model(**inputs)
            logits = torch.stack([output.start_logits, output.end_logits], -1)
            kept.append(self._spans.best_spans(logits, places, config["max_answer_length"]))
        whole = self._spans.merged(torch.cat(kept).numpy(), cut.firsts)
        threshold = config["null_score_diff_threshold"]
        return [self._spans.answer_in(row, context, threshold) for row, context in zip(whole, contexts, strict=True)]


def _load_pyfunc(path: str, model_config: dict[str, Any]) -> SpanModel:
    """Called by MLflow to load the model in `path`."""
    return SpanModel(path, model_config)
