"""The interface of a kind of task: everything the other rooms need to know about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mat_ds.errors import Problem
from mat_ds.tasks.example import BLANK, BadRow, Example, Label, excerpt, text_fault
from mat_ds.tasks.kinds.outputs import Answered, read_output
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch


class Kind(ABC):
    """A task as the model sees it. In shapes, B and N are numbers of samples, C is `outputs`.

    The model's output becomes logits (`read`), which losses and methods compare, and then what evaluation keeps of them for
    each sample (`kept`), from which come scores and answers. Both are one and the same where a sample has one answer.

    Args:
        spec: the task.

    Attributes:
        name: of the kind, in messages.
        auto_class: name of the transformers class that builds its models.
        problem_type: its name in transformers' configurations.
        pipeline: name of transformers' pipeline, also used on the hub.
        peft_task, peft_heads: PEFT's task type, and the modules that PEFT then treats as the head.
        metrics: names of the metrics that can score it.
        usual_metrics: those taken where the task names none.
        label_dtype, stored_type: of labels in a batch (torch's name), and in prepared data (a pyarrow function).
        loss_name: what the mean loss of a split is called in reports.
        distributions: whether the output is a probability distribution, which some methods require.
        directions: number of divergences that `divergence` sums: 1 if it is symmetric, 2 if it is symmetrised.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str]
    pipeline: ClassVar[str] = "text-classification"
    peft_task: ClassVar[str] = "SEQ_CLS"
    peft_heads: ClassVar[tuple[str, ...]] = ("classifier", "score")
    metrics: ClassVar[tuple[str, ...]]
    usual_metrics: ClassVar[tuple[str, ...]]
    label_dtype: ClassVar[str]
    stored_type: ClassVar[str]
    loss_name: ClassVar[str] = "loss"
    distributions: ClassVar[bool]
    directions: ClassVar[int]

    def __init__(self, spec: TaskSpec):
        self.spec = spec

    # The task.

    def problems(self) -> Iterator[Problem]:
        """Yields problems for keys of the task description that this kind does not support."""
        if wrong := [name for name in self.spec.metrics if name not in self.metrics]:
            reason = f"does not fit the task; use {' or '.join(self.metrics)} for {self.name}"
            yield Problem("metrics", ", ".join(wrong), reason, "use those")

    @classmethod
    @abstractmethod
    def fits(cls, config: Any) -> bool:
        """Whether a model with this configuration is of this kind."""

    @staticmethod
    @abstractmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        """The task of a model that has no description besides its configuration.

        Args:
            config: of a model that `fits`.
            text: the text columns.
        """

    # Rows.

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a row that its texts come from."""
        return self.spec.text

    def texts(self, row: Mapping[str, Any]) -> tuple[str, ...] | BadRow:
        """The texts of a row, or the first fault found."""
        texts = tuple(row.get(column) for column in self.columns)
        for column, text in zip(self.columns, texts, strict=True):
            if fault := text_fault(column, text):
                return fault
        if not any(text.strip() for text in texts if text):
            return BadRow(BLANK, excerpt(texts[0]), f"{' and '.join(self.columns)} {'is' if len(texts) == 1 else 'are'} blank")
        return texts  # type: ignore[return-value]

    @abstractmethod
    def label(self, value: Any) -> Label:
        """Converts a value from a file to a label.

        Raises:
            ValueError: with the reason, if it is not a label.
        """

    @abstractmethod
    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        """Labels for a column that numbers its classes in its own order.

        Args:
            names: the column's class names, by number.
            where: name of the file in messages.

        Returns:
            The label of each number; None if the numbers are the labels.

        Raises:
            UserError: if the names are not labels of the task.
        """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and highest valid label."""

    # Inputs.

    def encode(self, tokenizer: Any, examples: Sequence[Example], max_length: int, **form: Any) -> Any:
        """Model inputs of examples, truncated at `max_length` tokens; `form` are further arguments of the tokenizer."""
        columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
        return tokenizer(*columns, truncation=True, max_length=max_length, **form)

    def tokens(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[list[int]]:
        """The numbers of all tokens of each example, with special tokens."""
        found: list[list[int]] = self.encode(tokenizer, examples, max_length)["input_ids"]
        return found

    @property
    def texts_at_once(self) -> int:
        """How many texts the tokenizer joins to one input: 1, or 2 of a pair."""
        return len(self.spec.text)

    def collate(self, tokenizer: Any, examples: Sequence[Example], max_length: int) -> tuple[dict[str, Tensor], Tensor]:
        """Model inputs (B, L), padded to the longest of the examples, and their labels (B,); an unknown label becomes 0."""
        if all(example.tokens for example in examples):
            inputs = tokenizer.pad([example.tokens for example in examples], return_tensors="pt")
        else:
            inputs = self.encode(tokenizer, examples, max_length, padding=True, return_tensors="pt")
        return dict(inputs), self.targets([example.label for example in examples])

    def targets(self, labels: Sequence[Label | None]) -> Tensor:
        """Labels as the loss compares them with logits, (B,); an unknown label becomes 0."""
        import torch

        return torch.tensor([label or 0 for label in labels], dtype=getattr(torch, self.label_dtype))

    # The model.

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the head, C."""

    def head(self) -> dict[str, Any]:
        """Entries of a transformers configuration that describe the head."""
        names = dict(enumerate(self.output_names))
        numbers = {name: i for i, name in names.items()}
        return {"num_labels": self.outputs, "id2label": names, "label2id": numbers, "problem_type": self.problem_type}

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Name of each output of the head."""

    @staticmethod
    def read(output: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        """The logits in a model's output, given its inputs: (B, C)."""
        return read_output(output, inputs)

    # The objective of training.

    def loss(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The loss L in fp32: a scalar, the mean over the samples."""
        return self.losses(logits, batch).mean()

    @abstractmethod
    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The loss of each sample, (B,) in fp32."""

    @abstractmethod
    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """The divergence R between two outputs, per sample: (B,) in fp32."""

    # Scores.

    def kept(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """What evaluation keeps of a pass: (B, ...). Its other dimensions may be longer in one batch than in another; they
        are padded with zeros at the end when batches are put together."""
        return logits

    def right(self, logits: Tensor, batch: MicroBatch) -> Tensor | None:
        """Whether each answer is correct, (B,); None if answers are not simply right or wrong."""
        return None

    @abstractmethod
    def answered(self, kept: np.ndarray, examples: Sequence[Example]) -> Answered:
        """What the metrics compare; `kept` is (N, ...) fp32. An unknown label counts as 0."""

    # Answers.

    @abstractmethod
    def answers(self, kept: np.ndarray, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """Answers for the user, one JSON-ready dictionary per sample; `kept` is (N, ...) fp32."""

    @property
    @abstractmethod
    def answer_types(self) -> dict[str, Any]:
        """The types of an answer's keys: `double`, `string`, or a mapping of nested keys to types."""

    @abstractmethod
    def gold(self, label: Label | None) -> Any:
        """A label in the form used in answers; None if there is none."""

    @abstractmethod
    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The answer for the GLUE server per sample."""

    @property
    @abstractmethod
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        """For the model card: what an answer is, and the label names to list, if any."""
