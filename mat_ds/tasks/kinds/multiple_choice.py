"""Multiple choice: each question has choices of its own, of which one is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import TYPE_CHECKING, Any

from mat_ds.errors import Problem
from mat_ds.methods.batch import missing_texts
from mat_ds.methods.ops import symmetric_kl
from mat_ds.tasks.choices import choice_number, choice_texts, choices_in, right_choice
from mat_ds.tasks.example import BadRow, Example, Label, texts_in
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import Answered, read_output
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch
    from mat_ds.tasks.kinds.forms import LossForm

# The logit of a choice that a question does not have. Its probability is exactly 0 in fp32 and fp64, and fp16 can hold it.
NEVER = -6e4
# How many choices a question has where no data say it.
USUAL = 4
# The column of the choices, if the task names none.
CHOICES = ("choices",)


class MultipleChoice(Kind):
    """The texts of an example are those of the question, then its choices; the label is the number of a choice.

    A choice is read together with its question: `question [SEP] choice`, or `context [SEP] question choice`. The model gives
    it one logit. Inputs are (B, C, L), where C is the largest number of choices in the batch; in place of a choice that a
    question lacks stands a text of one token, which gets neither probability nor gradient nor perturbation.
    """

    name = "multiple_choice"
    auto_class = "AutoModelForMultipleChoice"
    problem_type = None
    pipeline = "multiple-choice"
    peft_task, peft_heads = None, ("classifier", "sequence_summary", "logits_proj")
    metrics = usual_metrics = ("accuracy",)
    label_dtype = stored_type = "int64"
    distributions = calibrates = picks_largest = True
    loss_options = ("label_smoothing", "focal_gamma")
    directions = 2
    server = "multiple_choice"
    texts_in_turn = "the question, then each of its choices"
    stores_tokens = False
    outputs = 1
    output_names = ("choice",)
    bounds = (0, len(LETTERS) - 1)
    texts_at_once = 2

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from self.without_labels("is for tasks with fixed answers, but each question has choices of its own")
        for column in set(self.spec.choices) & {*self.spec.text, self.spec.label}:
            yield Problem("choices", column, "is the column of a text or of the label too", "name another column")

    @staticmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        return TaskSpec(name="model", kind="multiple_choice", text=("question",) if text == ("text",) else text)

    def width(self, config: Any) -> int:
        return self.outputs  # whatever num_labels says: the head has one output, for each choice

    # Rows.

    @property
    def columns(self) -> tuple[str, ...]:
        return *self.spec.text, *(self.spec.choices or CHOICES)

    @property
    def list_columns(self) -> tuple[str, ...]:
        return self.columns[len(self.spec.text) :] if len(self.spec.choices) < 2 else ()

    mapped_columns = list_columns
    texts_per_example = None

    @property
    def texts_before_choices(self) -> int:
        return len(self.spec.text)

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        question = texts_in(row, self.spec.text)
        choices = choice_texts(row, self.columns[len(self.spec.text) :])
        return question if isinstance(question, BadRow) else choices if isinstance(choices, BadRow) else (*question, *choices)

    def rows_of(self, texts: Sequence[str]) -> list[dict[str, Any]] | None:
        """One question, and all its choices after it."""
        width, columns = len(self.spec.text), self.columns[len(self.spec.text) :]
        choices = texts[width:]
        if len(choices) < 2 or (len(columns) > 1 and len(columns) != len(choices)):
            return None
        question = dict(zip(self.spec.text, texts, strict=False))
        return [question | (dict(zip(columns, choices, strict=True)) if len(columns) > 1 else {columns[0]: list(choices)})]

    def label_of(self, row: Mapping[str, Any], texts: tuple[str, ...]) -> Label:
        """The number of the right choice. If the choices have labels in the row (as in ARC), it is given by its label."""
        count = len(texts) - len(self.spec.text)
        return right_choice(row.get(self.spec.label), choices_in(row, self.columns[len(self.spec.text) :])[1], count)

    def label(self, value: Any) -> Label:
        return choice_number(value)

    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        return names

    # Inputs.

    def inputs_of(self, example: Example) -> int:
        return len(example.texts) - len(self.spec.text)

    def most_inputs(self, examples: Sequence[Example]) -> int:
        return max(map(self.inputs_of, examples), default=max(len(self.spec.choices), USUAL))

    def encode(self, tokenizer: Any, examples: Sequence[Example], max_length: int, **form: Any) -> Any:
        """The inputs of all choices of all examples, one after another."""
        first, width = len(self.spec.text) - 1, len(self.spec.text)
        pairs = [
            (example.texts[0], f"{example.texts[1]} {choice}" if first else choice)
            for example in examples
            for choice in example.texts[width:]
        ]
        return tokenizer(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=max_length, **form)

    def tokens(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[list[int]]:
        ids = iter(self.encode(tokenizer, examples, max_length)["input_ids"])
        return [[token for _ in range(self.inputs_of(example)) for token in next(ids)] for example in examples]

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs (B, C, L), and the numbers of the right choices (B,)."""
        import torch

        counts = [self.inputs_of(example) for example in examples]
        found = dict(self.encode(tokenizer, examples, max_length, padding=True, return_tensors="pt"))
        texts, rows, first = sum(counts), [], 0
        for count in counts:
            rows.append([*range(first, first + count), *[texts] * (max(counts) - count)])
            first += count
        lacking = {name: torch.zeros_like(value[:1]) for name, value in found.items()}
        lacking["input_ids"].fill_(tokenizer.pad_token_id)
        lacking["attention_mask"][:, 0] = 1  # attention to no token at all is not a number in some kernels
        inputs = {name: torch.cat([value, lacking[name]])[torch.tensor(rows)] for name, value in found.items()}
        return inputs, self.targets([example.label for example in examples])

    # The model.

    def logits_shape(self, inputs: Sequence[int]) -> tuple[int, ...]:
        return inputs[0], inputs[1]

    @staticmethod
    def read(output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, C); the logit of a choice that a question lacks is a constant."""
        return read_output(output, inputs).masked_fill(missing_texts(inputs["attention_mask"]), NEVER)

    # The objective of training.

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """Cross-entropy over the choices of each question."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), batch.labels, reduction="none")

    def trained_losses(self, logits: Tensor, batch: MicroBatch, form: LossForm) -> Tensor:
        """Smoothing spreads over the choices that a question has."""
        from torch.nn.functional import one_hot

        there = ~missing_texts(batch.inputs["attention_mask"])
        return form.cross_entropy(logits, one_hot(batch.labels, logits.shape[1]).float(), there.float())

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """Symmetrised KL divergence over the choices of each question."""
        return symmetric_kl(p_logits, q_logits)

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        return logits.argmax(-1) == batch.labels

    # Answers.

    def _probabilities(self, kept: np.ndarray, examples: Sequence[Example]) -> Iterator[np.ndarray]:
        """Of the choices of each question: what is kept has entries for more, if other questions have more."""
        from scipy.special import softmax

        for row, example in zip(kept, examples, strict=True):
            yield softmax(row[: self.inputs_of(example)])

    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        import numpy as np

        rows = list(self._probabilities(kept, examples))
        probabilities = np.stack([np.pad(row, (0, kept.shape[1] - len(row))) for row in rows])
        return Answered([example.label or 0 for example in examples], [int(row.argmax()) for row in rows], probabilities)

    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """The letter and the text of the chosen answer, and the probability of each choice."""
        found = []
        for row, example in zip(self._probabilities(kept, examples), examples, strict=True):
            best = int(row.argmax())
            choice = example.texts[len(self.spec.text) + best]
            found.append({"label": LETTERS[best], "choice": choice, "probabilities": row.tolist()})
        return found

    @property
    def answer_types(self) -> dict[str, Any]:
        return {"label": "string", "choice": "string", "probabilities": ["double"]}

    def gold(self, label: Label | None) -> str | None:
        return None if label is None else LETTERS[int(label)]  # type: ignore[arg-type]

    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The letter of the choice."""
        return [LETTERS[number] for number in self.answered(kept, examples).predictions]

    @property
    def served_row(self) -> dict[str, Any]:
        count = len(self.spec.choices) if len(self.spec.choices) > 1 else 2
        (row,) = self.rows_of([*["What is golden?"] * len(self.spec.text), *LETTERS[:count]]) or [{}]
        return row

    @property
    def served_options(self) -> dict[str, Any]:
        return {"question": len(self.spec.text)}

    @property
    def reads(self) -> str:
        return f"a question ({' and '.join(self.spec.text)}) with its choices"

    @property
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        return "one of the choices", ()
