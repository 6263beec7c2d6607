"""Where a quantity is measured: on the clean texts, under noise, in a ball around their embeddings, under an attack on them.

A new measurement becomes part of conditions by a class here and its line in `PLACES`. No torch is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar, get_args

from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.options import TEXT_ATTACKS
from mat_ds.evaluation.noise import NOISES
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.measures import LOSS, METRICS, merit

CLEAN, ROBUST = "clean", "robust_accuracy"
CALIBRATION = ("nll", "brier", "ece", "ece_adaptive", "aurc")
BALLS: tuple[str, ...] = get_args(AttackOptions.model_fields["norm"].annotation)
Found = Mapping[str, Any]


class Place(ABC):
    """A place, as a condition names it in brackets.

    Attributes:
        form: how it is written.
        quantities: what can be measured there, whatever the task.
    """

    form: ClassVar[str]
    quantities: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def read(cls, words: Sequence[str]) -> Place | None:
        """The place that words in brackets name; None if they name another."""

    @abstractmethod
    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        """The options with which it is measured, besides what they ask for."""

    def of_task(self, kind: Kind) -> set[str]:
        """Those of `quantities` that are measured on this task."""
        scores = {
            *kind.spec.metrics,
            LOSS,
            kind.loss_name,
            *([kind.right_name, CLEAN, ROBUST] if _answers_rightly(kind) else []),
        }
        judged = {*CALIBRATION} if kind.calibrates else set()
        return {name for name in self.quantities if name in scores | judged}

    @abstractmethod
    def numbers(self, split: Found, kind: Kind) -> Found:
        """What a report has of the place on a split, by quantity; empty if it was not measured."""


class Clean(Place):
    """The texts as they are."""

    form = ""
    quantities = (CLEAN, *METRICS, LOSS, *CALIBRATION)

    @classmethod
    def read(cls, words: Sequence[str]) -> Clean | None:
        return None if words else cls()

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        return options

    def of_task(self, kind: Kind) -> set[str]:
        return {CLEAN, *super().of_task(kind)}

    def numbers(self, split: Found, kind: Kind) -> Found:
        scores = split["clean"]
        score = mean(merit(name, scores[name]) for name in kind.spec.metrics) if _has_all(scores, kind.spec.metrics) else None
        clean = scores.get(kind.right_name) if _answers_rightly(kind) else score
        return {**_by_quantity(scores, kind), **split.get("calibration", {}).get("before", {}), CLEAN: clean}


@dataclass(frozen=True)
class UnderNoise(Place):
    """Noisy texts."""

    kind: str
    rate: float

    form = f"({'|'.join(NOISES)}, RATE)"
    quantities = (ROBUST, *METRICS, LOSS, *CALIBRATION)

    @classmethod
    def read(cls, words: Sequence[str]) -> UnderNoise | None:
        if len(words) != 2 or words[0] not in NOISES:
            return None
        rate = _number_in(words[1])
        return cls(words[0], rate) if rate is not None and 0 < rate <= 1 else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        kinds, rates = dict.fromkeys((*options.noise.kinds, self.kind)), sorted({*options.noise.rates, self.rate})
        noise = options.noise.model_copy(update={"kinds": tuple(kinds), "rates": tuple(rates)})
        return options.model_copy(update={"noise": noise})

    def numbers(self, split: Found, kind: Kind) -> Found:
        point = _point_at(split["noise"].get(self.kind, ()), "rate", self.rate)
        return {
            **_by_quantity(point, kind),
            **_point_at(split.get("shift", {}).get("noise", {}).get(self.kind, ()), "rate", self.rate),
        }


@dataclass(frozen=True)
class InBall(Place):
    """The worst that the attack on the embeddings found within a radius."""

    norm: str
    radius: float

    form = f"({'|'.join(BALLS)}, RADIUS)"
    quantities = (ROBUST, *METRICS, LOSS)

    @classmethod
    def read(cls, words: Sequence[str]) -> InBall | None:
        if len(words) != 2 or words[0] not in BALLS:
            return None
        radius = _number_in(words[1])
        return cls(words[0], radius) if radius is not None and radius > 0 else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        radii = tuple(radius for radius in options.attack.curve if radius)
        attack = options.attack.model_copy(update={"norm": self.norm, "radii": tuple(sorted({*radii, self.radius}))})
        return options.model_copy(update={"attack": attack})

    def numbers(self, split: Found, kind: Kind) -> Found:
        return _by_quantity(_point_at(split["attack"], "radius", self.radius), kind)


@dataclass(frozen=True)
class UnderTextAttack(Place):
    """The worst texts that an attack found."""

    name: str

    form = f"({'|'.join(TEXT_ATTACKS)})"
    quantities = ("flip_rate", ROBUST, "queries", "queries_of_broken", *CALIBRATION)

    @classmethod
    def read(cls, words: Sequence[str]) -> UnderTextAttack | None:
        return cls(words[0]) if len(words) == 1 and words[0] in TEXT_ATTACKS else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        names = tuple(dict.fromkeys((*options.text_attack.names, self.name)))
        return options.model_copy(update={"text_attack": options.text_attack.model_copy(update={"names": names})})

    def of_task(self, kind: Kind) -> set[str]:
        return {*self.quantities} - (set() if kind.calibrates else {*CALIBRATION}) if kind.text_attacks else set()

    def numbers(self, split: Found, kind: Kind) -> Found:
        return {
            **split.get("text_attacks", {}).get(self.name, {}),
            **split.get("shift", {}).get("text_attacks", {}).get(self.name, {}),
        }


PLACES: tuple[type[Place], ...] = (Clean, UnderNoise, InBall, UnderTextAttack)


def without_defaults(options: EvaluationOptions) -> EvaluationOptions:
    """The options without what nobody asked for: the attack and the noise that are measured if nothing is said."""
    attack, noise = options.attack, options.noise
    if "radii" not in attack.model_fields_set:
        attack = attack.model_copy(update={"radii": ()})
    if not {"rates", "kinds"} & noise.model_fields_set:
        noise = noise.model_copy(update={"rates": (), "kinds": ()})
    return options.model_copy(update={"attack": attack, "noise": noise})


def _answers_rightly(kind: Kind) -> bool:
    """Whether answers of the kind are simply right or wrong."""
    return type(kind).right is not Kind.right


def _by_quantity(point: Found, kind: Kind) -> Found:
    """A point of a report with the names that every kind has."""
    return {**point, LOSS: point.get(kind.loss_name), ROBUST: point.get(kind.right_name)} if point else {}


def _point_at(points: Sequence[Found], key: str, level: float) -> Found:
    return next((point for point in points if point[key] == level), {})


def _has_all(scores: Found, names: Sequence[str]) -> bool:
    return all(scores.get(name) is not None for name in names)


def _number_in(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None
