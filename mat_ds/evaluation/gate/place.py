"""What a place is at which a quantity is measured, and how a report is asked for it. No torch is imported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.measures import LOSS

CLEAN, ROBUST = "clean", "robust_accuracy"
CALIBRATION = ("nll", "brier", "ece", "ece_adaptive", "aurc")
Found = Mapping[str, Any]


class Place(ABC):
    """A place, as a condition names it in brackets.

    Attributes:
        form: how it is written.
        quantities: what can be measured there, whatever the task.
        of_model: whether it is no place in a split, but one of the model.
    """

    form: ClassVar[str]
    quantities: ClassVar[tuple[str, ...]]
    of_model: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def read(cls, words: Sequence[str]) -> Place | None:
        """The place that words in brackets name; None if they name another."""

    @abstractmethod
    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        """The options with which it is measured, besides what they ask for."""

    def lacking(self, options: EvaluationOptions, tests: Sequence[str] | None) -> tuple[str, str] | None:
        """Why it cannot be measured with these options, and what to do; None if it can.

        Args:
            tests: names of the tests of behaviour; None if their file is not read yet.
        """
        return None

    def of_task(self, kind: Kind) -> set[str]:
        """Those of `quantities` that are measured on this task."""
        scores = {
            *kind.spec.metrics,
            LOSS,
            kind.loss_name,
            *([kind.right_name, CLEAN, ROBUST] if answers_rightly(kind) else []),
        }
        judged = {*CALIBRATION} if kind.calibrates else set()
        return {name for name in self.quantities if name in scores | judged}

    @abstractmethod
    def numbers(self, measured: Found, kind: Kind) -> Found:
        """What a report has of the place, by quantity; empty if it was not measured.

        Args:
            measured: on a split; of a place `of_model`, the whole report.
        """


def answers_rightly(kind: Kind) -> bool:
    """Whether answers of the kind are simply right or wrong."""
    return type(kind).right is not Kind.right


def by_quantity(point: Found, kind: Kind) -> Found:
    """A point of a report with the names that every kind has."""
    return {**point, LOSS: point.get(kind.loss_name), ROBUST: point.get(kind.right_name)} if point else {}


def point_at(points: Sequence[Found], key: str, level: float) -> Found:
    """The point of a curve at a level of `key`; empty if there is none."""
    return next((point for point in points if point[key] == level), {})


def has_all(scores: Found, names: Sequence[str]) -> bool:
    """Whether there is a number for each name."""
    return all(scores.get(name) is not None for name in names)


def number_in(text: str) -> float | None:
    """The finite number that a text is; None if it is not one."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None
