"""The loss that a run trains on: `loss.*`, and the weights of rows that a task names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from mat_ds.config.section import Fraction, Section, Weight
from mat_ds.errors import Problem, UserError, first_names, nearest
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.forms import LossForm
from mat_ds.tasks.labels import class_of, label_text
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import StoredExamples

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.batch import MicroBatch

# Labels shown in a message.
SHOWN = 10


def _keyed_by_text(value: object) -> object:
    """A map whose keys are texts, as labels are, also where YAML reads numbers."""
    return {label_text(key) or str(key): weight for key, weight in value.items()} if isinstance(value, dict) else value


AutoOrWeights = Annotated[
    Annotated[dict[str, Weight], BeforeValidator(_keyed_by_text), Tag("map")] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if isinstance(value, str) else "map"),
]


class LossConfig(Section):
    class_weights: AutoOrWeights | None = Field(
        None,
        description="weight of each label, as {no: 1, yes: 3}; auto: N / (C n_c), all C labels count the same; null: none",
    )
    label_smoothing: Fraction = Field(0.0, description="probability that is taken from a label and spread over all of them")
    focal_gamma: Weight = Field(
        0.0, description="gamma of the focal loss, -(1 - p)^gamma log p (Lin et al. 2017): easy examples count less"
    )

    def problems(self, spec: TaskSpec) -> Iterator[Problem]:
        """Yields the options that the task's kind does not support, and what is wrong with the labels of a map."""
        kind = kind_of(spec)
        for name, value in self.changed.items():
            if name not in kind.loss_options:
                able = f"{kind.name} takes " + (" and ".join(kind.loss_options) or "weights of rows alone")
                yield Problem(f"loss.{name}", value, f"is not defined for {kind.name}", f"leave it out: {able}")
        if isinstance(self.class_weights, dict) and "class_weights" in kind.loss_options:
            yield from _map_problems(self.class_weights, spec)

    def weights_by_class(self, spec: TaskSpec) -> list[float] | None:
        """The weights that are given, in the order of the labels; None if none are."""
        if not isinstance(self.class_weights, dict):
            return None
        given = {class_of(spec, label): weight for label, weight in self.class_weights.items()}
        return [given[number] for number in range(len(spec.labels))]


def _map_problems(weights: Mapping[str, float], spec: TaskSpec) -> Iterator[Problem]:
    key, meant = "loss.class_weights", dict[int, str]()
    for label, weight in weights.items():
        if (number := class_of(spec, label)) is None:
            yield Problem(key, {label: weight}, f"{label!r} is not one of the labels", nearest(label, spec.labels))
        elif number in meant:
            yield Problem(key, {label: weight}, f"{meant[number]!r} is the same label", "give it one weight")
        else:
            meant[number] = label
    if missing := [label for number, label in enumerate(spec.labels) if number not in meant]:
        reason = f"has no weight for {first_names(missing, SHOWN)}"
        yield Problem(key, dict(weights), reason, "give every label a weight; 1 is the weight of a label that counts as usual")
    elif not any(weights.values()):
        yield Problem(key, dict(weights), "all weights are zero, so there is nothing to learn", "give one label a weight")


@dataclass(frozen=True)
class TrainedLoss:
    """An `Objective` whose loss is the mean over the samples of w_i l_i; the divergence has no weights.

    w_i = r_i sum_c q_ic a_c / Z, with the weight r of the row, the probabilities q of its label and the weights a of the
    classes; Z makes the mean weight over the training set 1. Where classes weigh no whole samples, w_i is r_i / Z, and a is
    the kind's. So no weight depends on the other samples of a batch.

    Attributes:
        kind: of the task.
        form: smoothing, gamma and a.
        mean_weight: Z.
        soft: whether some labels are given as probabilities.
    """

    kind: Kind
    form: LossForm
    mean_weight: float
    soft: bool = False

    @property
    def directions(self) -> int:
        return self.kind.directions

    def loss(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The mean of weighted losses: a scalar in fp32."""
        each = self.kind.trained_losses(logits, batch, self.form)
        return (each if batch.weights is None else each * batch.weights).mean() / self.mean_weight

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        return self.kind.divergence(p_logits, q_logits, batch)

    @property
    def description(self) -> str:
        """What it differs in from the kind's own loss; the weights of classes are a / Z."""
        spec, form = self.kind.spec, self.form
        words = []
        if form.class_weights:
            scale = self.mean_weight if self.kind.weighs_samples else 1.0
            of_classes = zip(spec.labels, form.class_weights, strict=True)
            words.append("class weights " + ", ".join(f"{name} {weight / scale:.4g}" for name, weight in of_classes))
        words += [f"rows weighted by {spec.weight}"] if spec.weight is not None else []
        words += ["labels with probabilities"] if self.soft else []
        words += [f"label smoothing {form.smoothing:g}"] if form.smoothing else []
        words += [f"focal gamma {form.gamma:g}"] if form.gamma else []
        return "; ".join(words)


def trained_loss(config: LossConfig, spec: TaskSpec, train: Sequence[Example]) -> TrainedLoss | None:
    """The objective of a run; None if neither options nor data change the loss of the task's kind.

    Args:
        config, spec: checked by `LossConfig.problems`.
        train: all training examples, over which weights are normalised.

    Raises:
        UserError: if all weights are zero, or a class that `auto` should weigh has no rows.
    """
    kind = kind_of(spec)
    soft = _any_soft(train)
    if not (config.changed or spec.weight is not None or soft):
        return None
    rows = train.without_texts() if isinstance(train, StoredExamples) else train
    weights: tuple[float, ...] | None = None
    total = 0.0
    if config.class_weights is None:
        total = sum(example.weight for example in rows)
    else:
        counts, weighted = [0.0] * len(spec.labels), [0.0] * len(spec.labels)
        for example in rows:
            total += example.weight
            for number, share in kind.class_shares(example).items():
                counts[number] += share
                weighted[number] += share * example.weight
        weights = tuple(config.weights_by_class(spec) or _balanced(kind, counts, len(train)))
        if kind.weighs_samples:
            total = sum(weight * count for weight, count in zip(weights, weighted, strict=True))
    if not total:
        key, value = ("loss.class_weights", config.class_weights) if weights else (f"task {spec.name}: weight", spec.weight)
        raise UserError(Problem(key, value, "every training row has the weight zero, so there is nothing to learn",
                                "give some rows a positive weight"))  # fmt: skip
    form = LossForm(config.label_smoothing, config.focal_gamma, weights)
    return TrainedLoss(kind, form, total / len(train), soft)


def _any_soft(train: Sequence[Example]) -> bool:
    """Whether a label is given as probabilities."""
    return train.soft if isinstance(train, StoredExamples) else any(example.probabilities for example in train)


def _balanced(kind: Kind, counts: Sequence[float], examples: int) -> list[float]:
    """The weight of each class that `auto` stands for."""
    for who, number in (("no", 0), ("every", examples)):
        if found := [label for label, count in zip(kind.spec.labels, counts, strict=True) if count == number]:
            reason = f"{who} training row has the label {first_names(found, SHOWN)}, so that it has no weight"
            fix = "give a weight for each label, or leave that label out"
            raise UserError(Problem("loss.class_weights", "auto", reason, fix))
    return [kind.balanced(count, examples) for count in counts]
