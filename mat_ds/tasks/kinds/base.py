"""What a kind of task has to say of itself: all that the rest of the package needs to know of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mat_ds.errors import Problem
from mat_ds.tasks.spec import TaskSpec

Label = int | float
# The first line of a file for the GLUE server.
SUBMISSION_HEADER = "index\tprediction"


def read_output(output: Any) -> Tensor:
    """What a transformers model with a head answers: (B, ...), where B is the number of examples."""
    logits: Tensor = output.logits
    return logits


class Kind(ABC):
    """A task, as what it is to the model. In shapes, B and N are numbers of examples, C is `outputs`.

    Args:
        spec: the task.

    Attributes:
        name: as messages call it.
        auto_class: transformers' class that builds its models.
        problem_type: what transformers' configurations call it.
        pipeline: transformers' pipeline of its models, which is also what the hub calls it.
        peft_task, peft_heads: PEFT's name of it, and the modules that PEFT then takes for the head, whatever the model.
        metrics: those that can score it.
        label_dtype, stored_type: of labels in a batch, and in prepared data (a function of pyarrow).
        distributions: whether an answer is a distribution of probabilities, which some methods are not defined without.
        directions: how many divergences `divergence` adds up: a symmetric one is one, a symmetrised one two.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str]
    problem_type: ClassVar[str]
    pipeline: ClassVar[str]
    peft_task: ClassVar[str]
    peft_heads: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    label_dtype: ClassVar[torch.dtype]
    stored_type: ClassVar[str]
    distributions: ClassVar[bool]
    directions: ClassVar[int]

    def __init__(self, spec: TaskSpec):
        self.spec = spec

    # The task.

    def problems(self) -> Iterator[Problem]:
        """What the description of the task says that has no meaning for this kind; keys are the description's."""
        if wrong := [name for name in self.spec.metrics if name not in self.metrics]:
            reason = f"is of another kind of task: {' and '.join(self.metrics)} score {self.name}"
            yield Problem("metrics", ", ".join(wrong), reason, "take those")

    @classmethod
    @abstractmethod
    def fits(cls, config: Any) -> bool:
        """Whether a model with this configuration answers tasks of this kind."""

    @staticmethod
    @abstractmethod
    def described_by(config: Any, text: tuple[str, ...]) -> TaskSpec:
        """The task of a model that says no more of it than its configuration does.

        Args:
            config: of a model that `fits`.
            text: the text columns.
        """

    # Labels.

    @abstractmethod
    def label(self, value: Any) -> Label:
        """The label that a value in a file stands for.

        Raises:
            ValueError: saying why it stands for none.
        """

    @abstractmethod
    def column_labels(self, names: list[str], where: str) -> list[str] | None:
        """The labels that stand for the classes of a column which numbers them in an order of its own.

        Args:
            names: of the column's classes, in its order.
            where: what a message calls the file.

        Returns:
            None where the numbers themselves are the labels.

        Raises:
            UserError: if the names are no labels of the task.
        """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest label."""

    def collate(self, labels: Sequence[Label | None]) -> Tensor:
        """The labels of a batch: (B,); one that is not known is 0."""
        return torch.tensor([label or 0 for label in labels], dtype=self.label_dtype)

    # The model.

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the head."""

    def head(self) -> dict[str, Any]:
        """What the configuration of a model says of its head."""
        names = dict(enumerate(self.output_names))
        numbers = {name: i for i, name in names.items()}
        return {"num_labels": self.outputs, "id2label": names, "label2id": numbers, "problem_type": self.problem_type}

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """What each output of the head is called."""

    @staticmethod
    def read(output: Any) -> Tensor:
        """The answers in what the model returns: (B, C)."""
        return read_output(output)

    # The objective of training.

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
        """L in fp32: the mean over the examples, or with `reduction="none"` that of each, (B,)."""

    @abstractmethod
    def divergence(self, p_logits: Tensor, q_logits: Tensor) -> Tensor:
        """R of each example: how far two answers are from each other, (B,) in fp32."""

    # Scores.

    @abstractmethod
    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """(N,) labels that are predicted, as metrics compare them."""

    @property
    @abstractmethod
    def quantity(self) -> str:
        """The one of `quantities` that is drawn beside the task's metrics."""

    @abstractmethod
    def quantities(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """What is measured of every model under attack and noise, whatever its task's metrics; (N, C) and (N,)."""

    def right(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Whether each example is answered rightly, (B,); None where an answer is only more or less off."""
        return None

    # Answers.

    @abstractmethod
    def answers(self, logits: np.ndarray) -> list[dict[str, Any]]:
        """What a user is told of each row of logits (N, C) fp32, ready to be written as JSON."""

    @property
    @abstractmethod
    def answer_types(self) -> dict[str, Any]:
        """The keys of an answer and their types: `double`, `string`, or a mapping of further keys to types."""

    @abstractmethod
    def gold(self, label: Label | None) -> Label | str | None:
        """A label as answers name it; None of an example without one."""

    @abstractmethod
    def submitted(self, logits: np.ndarray) -> list[str]:
        """What the GLUE server is to be told of each row of logits (N, C)."""

    @property
    @abstractmethod
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        """What the model card says an answer is, and the names of which it is one, if so: they are the user's words."""
