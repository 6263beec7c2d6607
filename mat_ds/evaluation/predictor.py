"""Predicts labels and probabilities, or scores, for texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mat_ds.artifacts.calibrated import temperature_of
from mat_ds.artifacts.described import Description, head_problems, read_description
from mat_ds.artifacts.exported import load_classifier
from mat_ds.errors import NonFiniteError, Problem, UserError, raise_if_any
from mat_ds.evaluation.generation import end_tokens, generate
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.build import longest_input
from mat_ds.models.vocabulary import vocabulary_problems
from mat_ds.tasks.example import BadRow, Example
from mat_ds.tasks.kinds import kind_of, kind_of_model
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.lines import TEXT
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import make_example
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.tokens import token_problems


@dataclass(frozen=True)
class Predictor:
    """A model that predicts answers for texts.

    Attributes:
        spec: the task; `text` are the columns of the input file.
        name: of the model, as given by the user.
        model, tokenizer, collate, device: the model, how texts become its inputs, and its device.
        temperature: that its logits are divided by, so that its probabilities are calibrated; 1: as they are.
        max_new_tokens: of a response, where the model writes text.
    """

    spec: TaskSpec
    name: str
    model: Any
    tokenizer: Any
    collate: Collator
    device: torch.device
    temperature: float = 1.0
    max_new_tokens: int = 0

    @torch.inference_mode()
    def kept(self, examples: Sequence[Example]) -> torch.Tensor:
        """What the task's kind keeps of the logits, (N, ...), fp32 on the CPU; raises `UserError` for inputs that the model
        cannot read."""
        kind, length = kind_of(self.spec), self.collate.max_length
        self.check(examples)
        parts = kind.parts(self.tokenizer, examples, length)
        found = [self._kept(kind, parts[first : first + len(examples)]) for first in range(0, len(parts), len(examples))]
        return torch.from_numpy(kind.wholes(torch.cat(found).numpy(), parts)[0])

    def _kept(self, kind: Kind, parts: Sequence[Example]) -> torch.Tensor:
        batch = MicroBatch(*self.collate(parts, self.device), 0)
        return self.finite(kind.kept(kind.read(self.model(**batch.inputs), batch.inputs), batch)) / self.temperature

    @staticmethod
    def finite(found: torch.Tensor) -> torch.Tensor:
        """What a pass found, in fp32 on the CPU; raises `NonFiniteError` if it is not finite."""
        found = found.float().cpu()
        if not bool(found.isfinite().all()):
            raise NonFiniteError("a prediction is not finite")
        return found

    def check(self, examples: Sequence[Example]) -> None:
        """Raises `UserError` for inputs that the model cannot read."""
        kind, length = kind_of(self.spec), self.collate.max_length
        raise_if_any(token_problems(self.tokenizer, examples, length, kind))
        raise_if_any(vocabulary_problems("MODEL", self.name, self.model, self.tokenizer, [examples], length, kind))

    def answers(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """An answer per example."""
        kind, length = kind_of(self.spec), self.collate.max_length
        if not kind.generates:
            return kind.answers(self.kept(examples).numpy(), examples)
        unanswered = [replace(example, label=None, tokens=None) for example in examples]
        self.check(unanswered)
        prompts = kind.tokens(self.tokenizer, unanswered, length - self.max_new_tokens)
        ends = end_tokens(self.model, self.tokenizer)
        found = generate(self.model, self.tokenizer, prompts, self.max_new_tokens, ends)
        return [{"response": self.tokenizer.decode(tokens, skip_special_tokens=True)} for tokens in found]

    def predict(self, texts: Sequence[str | Sequence[str] | Mapping[str, Any]], batch_size: int = 32) -> list[dict[str, Any]]:
        """Predicts an answer per text: `label` and `probabilities` of all labels, or `score`, or what else the kind of the task
        answers with (docs/tasks.md).

        Args:
            texts: texts, or pairs of texts if the task reads pairs, or lists of words if it reads those; or rows, with a value
                under the name of each column.
            batch_size: texts per forward pass.

        Raises:
            UserError: if an item is not a text, or not a pair.
            NonFiniteError: if a prediction is not finite.
        """
        examples = list(self._examples(texts))
        found: list[dict[str, Any]] = []
        for first in range(0, len(examples), batch_size):
            some = examples[first : first + batch_size]
            found += self.answers(some)
        return found

    def _examples(self, texts: Sequence[str | Sequence[str] | Mapping[str, Any]]) -> Iterator[Example]:
        if isinstance(texts, str):
            raise UserError(Problem("texts", texts, "is one text, not a list of them", "pass [text]"))
        kind = kind_of(self.spec)
        for i, given in enumerate(texts):
            if (row := kind.asked(given)) is None:
                reason = f"is not {kind.reads}, which {self.spec.name} reads"
                shape = {1: "texts", 2: "pairs"}.get(len(kind.columns), "rows")
                raise UserError(Problem(f"texts[{i}]", given, reason, f"pass a list of {shape}"))
            made = make_example(self.spec, row, labelled=False)
            if isinstance(made, BadRow):
                raise UserError(Problem(f"texts[{i}]", made.value, made.reason, "mend it, or leave it out"))
            yield made


def load_predictor(
    model_name: str,
    folder: Path,
    task: str | None = None,
    columns: Sequence[str] | None = None,
    calibrated: bool = False,
    max_new_tokens: int | None = None,
) -> Predictor:
    """Loads a model in fp32, on the GPU if there is one.

    Args:
        model_name: a MODEL as on the command line.
        folder: of its files, as `locate` finds it.
        task: its task, if the model does not name one itself.
        columns: names of the text columns, if not the task's.
        calibrated: whether its logits are divided by the temperature in its `calibration.json`.
        max_new_tokens: longest response of a model that writes text; None: half of what it was trained to read.
    """
    temperature = temperature_of(folder, model_name) if calibrated else 1.0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_classifier(folder, torch.float32, device)
    known = read_description(folder)
    if task:
        known = Description(find_task(task), known.max_length if known else DataConfig().max_length)
    spec = known.spec if known else kind_of_model(model.config).described_by(model.config, tuple(columns or (TEXT,)))
    raise_if_any(head_problems("--task", model.config, spec))
    if columns and len(columns) != len(spec.text):
        raise UserError(Problem("--columns", " ".join(columns), f"{spec.name} reads {len(spec.text)} text(s) at a time",
                                f"name as many as these: {' '.join(spec.text)}"))  # fmt: skip
    spec = spec.model_copy(update=_with_columns(spec, columns)) if columns else spec
    max_length = min(known.max_length if known else DataConfig().max_length, longest_input(model, tokenizer))
    kind = kind_of(spec)
    raise_if_any(kind.tokenizer_problems("MODEL", model_name, tokenizer))
    raise_if_any(_new_token_problems(max_new_tokens, max_length, kind))
    new = (max_new_tokens or max_length // 2) if kind.generates else 0
    return Predictor(spec, model_name, model, tokenizer, Collator(tokenizer, max_length, kind), device, temperature, new)


def _with_columns(spec: TaskSpec, columns: Sequence[str]) -> dict[str, Any]:
    """What changes in a task whose text columns have other names."""
    return {"text": tuple(columns), **({"messages": columns[0], "label": columns[0]} if spec.messages else {})}


def _new_token_problems(asked: int | None, max_length: int, kind: Kind) -> Iterator[Problem]:
    """Yields a problem if a response cannot be as long as asked."""
    if asked is None:
        return
    if not kind.generates:
        yield Problem(
            "--max_new_tokens", asked, f"is for models that write text, but this one is for {kind.name}", "leave it out"
        )
    elif not 0 < asked < max_length:
        reason = f"leaves no token of the {max_length} to the prompt"
        yield Problem("--max_new_tokens", asked, reason, f"take less than {max_length}")
