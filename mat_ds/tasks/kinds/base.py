"""The interface of a kind of task: everything the other rooms need to know about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mat_ds.errors import Problem
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Label = int | float
# First line of a submission file for the GLUE server.
SUBMISSION_HEADER = "index\tprediction"


def read_output(output: Any) -> Tensor:
    """The logits of a transformers model with a head: (B, ...), where B is the number of examples."""
    logits: Tensor = output.logits
    return logits


class Kind(ABC):
    """A task as the model sees it. In shapes, B and N are numbers of examples, C is `outputs`.

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

    # Labels.

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

    def collate(self, labels: Sequence[Label | None]) -> Tensor:
        """The labels of a batch: (B,); an unknown label becomes 0."""
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
    def read(output: Any) -> Tensor:
        """The logits in a model's output: (B, C)."""
        return read_output(output)

    # The objective of training.

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """The loss L in fp32: a scalar mean over examples, or (B,) with `reduction="none"`."""

    @abstractmethod
    def divergence(self, p_logits: Tensor, q_logits: Tensor) -> Tensor:
        """The divergence R between two outputs, per example: (B,) in fp32."""

    # Scores.

    @abstractmethod
    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Predicted labels (N,), as the metrics expect them."""

    @abstractmethod
    def quantities(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Measurements under attack and noise, independent of the task's metrics; logits (N, C), labels (N,)."""

    def right(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Whether each answer is correct, (B,); None if answers are not simply right or wrong."""
        return None

    # Answers.

    @abstractmethod
    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """Answers for the user, one JSON-ready dictionary per row of logits (N, C) fp32."""

    @property
    @abstractmethod
    def answer_types(self) -> dict[str, Any]:
        """The types of an answer's keys: `double`, `string`, or a mapping of nested keys to types."""

    @abstractmethod
    def gold(self, label: Label | None) -> Label | str | None:
        """A label in the form used in answers; None if there is none."""

    @abstractmethod
    def submitted(self, logits: np.ndarray) -> list[str]:
        """The answer for the GLUE server per row of logits (N, C)."""

    @property
    @abstractmethod
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        """For the model card: what an answer is, and the label names to list, if any."""
