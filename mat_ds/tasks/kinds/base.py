"""The interface of a kind of task: everything the other rooms need to know about it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mat_ds.errors import Problem
from mat_ds.tasks.example import Example, Label
from mat_ds.tasks.kinds.outputs import Answered, read_output
from mat_ds.tasks.kinds.reading import Reading
from mat_ds.tasks.measures import METRICS
from mat_ds.tasks.spec import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch
    from mat_ds.tasks.kinds.forms import LossForm


# Texts of the example that goes with a registered model.
SERVED_TEXTS = ("The key near the cabinets is golden.", "The key is near the cabinets.")


class Kind(Reading):
    """A task as the model sees it. In shapes, B and N are numbers of samples, C is `outputs`.

    The model's output becomes logits (`read`), which losses and methods compare, and then what evaluation keeps of them for
    each sample (`kept`), from which come scores and answers. Both are one and the same where a sample has one answer.

    Args:
        spec: the task.

    Attributes, besides those of `Reading`:
        name: of the kind, in messages.
        auto_class: name of the transformers class that builds its models.
        problem_type: its name in transformers' configurations.
        pipeline: name of transformers' pipeline, also used on the hub.
        peft_task, peft_heads: PEFT's task type, and the modules that PEFT then treats as the head.
        metrics: names of the metrics that can score it.
        usual_metrics: those taken where the task names none.
        server: the module of registry/served_model that answers for its models where mat_ds is not installed.
        loss_name: what the mean loss of a split is called in reports.
        confuses: whether references and predictions are numbers of the task's labels, so that a confusion matrix counts them.
        distributions: whether the output is a probability distribution, which some methods require.
        loss_options: options of `loss` that the kind supports; rows can be weighted in every kind.
        weighs_samples: whether a weight of a class is a factor of whole samples, to be normalised with the weights of rows.
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
    server: ClassVar[str] = "text_classifier"
    loss_name: ClassVar[str] = "loss"
    confuses: ClassVar[bool] = False
    distributions: ClassVar[bool]
    loss_options: ClassVar[tuple[str, ...]] = ()
    weighs_samples: ClassVar[bool] = True
    directions: ClassVar[int]

    # The task.

    def problems(self) -> Iterator[Problem]:
        """Yields problems for keys of the task description that this kind does not support."""
        if wrong := [name for name in self.spec.metrics if name not in self.metrics]:
            reason = f"does not fit the task; for {self.name} there are {', '.join(self.metrics)}"
            yield Problem("metrics", ", ".join(wrong), reason, "use those")
        elif len({METRICS[name].lower for name in self.spec.metrics}) > 1:
            lower = ", ".join(name for name in self.spec.metrics if METRICS[name].lower)
            reason = f"is better when it is lower, the others when higher: their mean, the score, would say nothing ({lower})"
            yield Problem("metrics", ", ".join(self.spec.metrics), reason, "name metrics of one direction")

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

    def trained_losses(self, logits: Tensor, batch: MicroBatch, form: LossForm) -> Tensor:
        """The loss of each sample as a run trains on it, without the weights of rows: (B,) in fp32."""
        return self.losses(logits, batch)

    def class_shares(self, example: Example) -> Mapping[int, float]:
        """What share of an example each class has, by its number. They sum to 1 where classes exclude each other."""
        return {}

    def balanced(self, count: float, examples: int) -> float:
        """The weight that `auto` gives to a class: N / (C n_c).

        Args:
            count: n_c, the sum of its shares.
            examples: N.
        """
        return examples / (self.outputs * count)

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
        """The types of an answer's keys: `double`, `string`, `long`, or a mapping of nested keys to types. A list of one type
        stands for any number of it."""

    @property
    def served_row(self) -> dict[str, Any]:
        """A row as a served model reads it; columns may have other names than in the task."""
        return dict(zip(("text", "text_pair")[: len(self.columns)], SERVED_TEXTS, strict=False))

    @property
    def served_options(self) -> dict[str, Any]:
        """What its server has to know besides `max_length` and the columns (`text`)."""
        return {}

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
