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


# Keys of a task's description that one kind alone has.
SPAN = ("doc_stride", "max_answer_length", "unanswerable", "null_score_diff_threshold")
KEYS = {"choices": "multiple_choice", "messages": "causal_lm", **dict.fromkeys(SPAN, "span_qa")}
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
        problem_type: its name in transformers' configurations; None if they have none for it.
        pipeline: name of the kind on the hub, and of transformers' pipeline if it has one.
        peft_task, peft_heads: PEFT's task type, and the modules that PEFT then treats as the head; None if it has no type for
            the kind, whose heads it is then told.
        metrics: names of the metrics that can score it.
        usual_metrics: those taken where the task names none.
        server: the module of registry/served_model that answers for its models where mat_ds is not installed.
        served_with: modules beside this one of which it needs copies; they import nothing of mat_ds.
        loss_name: what the mean loss of a split is called in reports.
        calibrates: whether its probabilities can be judged and sharpened: `answered` returns some, for references that are
            class numbers (N,) or 0 and 1 (N, C), and what it keeps are logits, which a temperature divides.
        confuses: whether references and predictions are numbers of the task's labels, so that a confusion matrix counts them.
        picks_largest: whether logits are (B, C) and a label one of their C numbers, the answer being that of the largest.
        right_name: what the share of right answers is called in reports of robustness.
        text_attacks: whether labels are of texts, so that a text can change and its label hold.
        distributions: whether the output is a probability distribution, which some methods require.
        loss_options: options of `loss` that the kind supports; rows can be weighted in every kind.
        weighs_samples: whether a weight of a class is a factor of whole samples, to be normalised with the weights of rows.
        directions: number of divergences that `divergence` sums: 1 if it is symmetric, 2 if it is symmetrised.
        generates: whether answers are texts that the model writes, not what evaluation keeps of one pass.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    problem_type: ClassVar[str | None]
    pipeline: ClassVar[str] = "text-classification"
    peft_task: ClassVar[str | None] = "SEQ_CLS"
    peft_heads: ClassVar[tuple[str, ...]] = ("classifier", "score")
    metrics: ClassVar[tuple[str, ...]]
    usual_metrics: ClassVar[tuple[str, ...]]
    server: ClassVar[str] = "text_classifier"
    served_with: ClassVar[tuple[str, ...]] = ()
    loss_name: ClassVar[str] = "loss"
    calibrates: ClassVar[bool] = False
    confuses: ClassVar[bool] = False
    picks_largest: ClassVar[bool] = False
    right_name: ClassVar[str] = "accuracy"
    text_attacks: ClassVar[bool] = False
    distributions: ClassVar[bool]
    loss_options: ClassVar[tuple[str, ...]] = ()
    weighs_samples: ClassVar[bool] = True
    directions: ClassVar[int]
    generates: ClassVar[bool] = False

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
        for key, kind in KEYS.items():
            if kind != self.name and (value := getattr(self.spec, key)) != TaskSpec.model_fields[key].default:
                yield Problem(key, value, f"is for {kind} tasks, but this is one of {self.name}", "delete it")

    def without_labels(self, reason: str, *more: str) -> Iterator[Problem]:
        """Yields a problem, with its reason, for each key that only tasks with fixed answers have, and for `more` keys."""
        for key in ("labels", "label_map", "range", "submit_names", *more):
            if value := getattr(self.spec, key):
                yield Problem(key, value, reason, "delete it, or the kind")

    @classmethod
    def fits(cls, config: Any) -> bool:
        """Whether a model with this configuration is of this kind: its class has the kind's head."""
        return any(name.endswith(cls.auto_class.removeprefix("AutoModel")) for name in config.architectures or ())

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
        # The part of a class's name by which a configuration is known to be of the kind; saving a model completes it.
        own = [self.auto_class.removeprefix("AutoModel")]
        head = {"num_labels": self.outputs, "id2label": names, "label2id": numbers, "problem_type": self.problem_type}
        return {**head, "architectures": own}

    def width(self, config: Any) -> int:
        """Width of the head of a model with this configuration."""
        return int(config.num_labels)

    @property
    @abstractmethod
    def output_names(self) -> tuple[str, ...]:
        """Name of each output of the head."""

    def logits_shape(self, inputs: Sequence[int]) -> tuple[int, ...]:
        """The shape of the logits, given that of `input_ids`."""
        return inputs[0], self.outputs

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

    def wholes(self, kept: np.ndarray, parts: Sequence[Example]) -> tuple[np.ndarray, Sequence[Example]]:
        """What evaluation keeps of the parts of examples, put together for each example, and the examples."""
        return kept, parts

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

    def gold_of(self, example: Example) -> Any:
        """The label of an example in the form used in answers; None if there is none."""
        return self.gold(example.label)

    @abstractmethod
    def submitted(self, kept: np.ndarray, examples: Sequence[Example]) -> list[str]:
        """The answer for the GLUE server per sample."""

    @property
    def reads(self) -> str:
        """For the model card: what the model reads."""
        return "a text" if len(self.spec.text) == 1 else f"a pair of texts ({' and '.join(self.spec.text)})"

    @property
    @abstractmethod
    def range_of_answers(self) -> tuple[str, tuple[str, ...]]:
        """For the model card: what an answer is, and the label names to list, if any."""
