"""Where a quantity is measured: on the clean texts, under noise, in a ball around their embeddings, under an attack on them.

A new measurement becomes part of conditions by a class here and its line in `PLACES`. No torch is imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import get_args

from mat_ds.errors import nearest
from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.options import TEXT_ATTACKS
from mat_ds.evaluation.gate.place import (
    CALIBRATION,
    CLEAN,
    ROBUST,
    Found,
    Place,
    answers_rightly,
    by_quantity,
    has_all,
    number_in,
    point_at,
)
from mat_ds.evaluation.noise import NOISES
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.measures import LOSS, METRICS, merit

BALLS: tuple[str, ...] = get_args(AttackOptions.model_fields["norm"].annotation)


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

    def numbers(self, measured: Found, kind: Kind) -> Found:
        scores = measured["clean"]
        score = mean(merit(name, scores[name]) for name in kind.spec.metrics) if has_all(scores, kind.spec.metrics) else None
        clean = scores.get(kind.right_name) if answers_rightly(kind) else score
        return {**by_quantity(scores, kind), **measured.get("calibration", {}).get("before", {}), CLEAN: clean}


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
        rate = number_in(words[1])
        return cls(words[0], rate) if rate is not None and 0 < rate <= 1 else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        kinds, rates = dict.fromkeys((*options.noise.kinds, self.kind)), sorted({*options.noise.rates, self.rate})
        noise = options.noise.model_copy(update={"kinds": tuple(kinds), "rates": tuple(rates)})
        return options.model_copy(update={"noise": noise})

    def numbers(self, measured: Found, kind: Kind) -> Found:
        point = point_at(measured["noise"].get(self.kind, ()), "rate", self.rate)
        return {
            **by_quantity(point, kind),
            **point_at(measured.get("shift", {}).get("noise", {}).get(self.kind, ()), "rate", self.rate),
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
        radius = number_in(words[1])
        return cls(words[0], radius) if radius is not None and radius > 0 else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        radii = tuple(radius for radius in options.attack.curve if radius)
        attack = options.attack.model_copy(update={"norm": self.norm, "radii": tuple(sorted({*radii, self.radius}))})
        return options.model_copy(update={"attack": attack})

    def numbers(self, measured: Found, kind: Kind) -> Found:
        return by_quantity(point_at(measured["attack"], "radius", self.radius), kind)


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

    def numbers(self, measured: Found, kind: Kind) -> Found:
        return {
            **measured.get("text_attacks", {}).get(self.name, {}),
            **measured.get("shift", {}).get("text_attacks", {}).get(self.name, {}),
        }


@dataclass(frozen=True)
class InCertificate(Place):
    """Within a radius in which the classifier smoothed by noise on its embeddings provably answers the same."""

    radius: float

    form = "(RADIUS)"
    quantities = ("certified_accuracy",)

    @classmethod
    def read(cls, words: Sequence[str]) -> InCertificate | None:
        radius = number_in(words[0]) if len(words) == 1 else None
        return cls(radius) if radius is not None and radius >= 0 else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        radii = tuple(sorted({*options.smoothing.radii, self.radius}))
        return options.model_copy(update={"smoothing": options.smoothing.model_copy(update={"radii": radii})})

    def lacking(self, options: EvaluationOptions, tests: Sequence[str] | None) -> tuple[str, str] | None:
        sigma = options.smoothing.sigma
        return ("depends on the noise, which has no default", "pass smoothing.sigma=SIGMA") if sigma is None else None

    def of_task(self, kind: Kind) -> set[str]:
        return {*self.quantities} if kind.picks_largest else set()

    def numbers(self, measured: Found, kind: Kind) -> Found:
        return point_at(measured.get("smoothing", {}).get("points", ()), "radius", self.radius)


@dataclass(frozen=True)
class OnTest(Place):
    """The cases of a test of the model's behaviour."""

    name: str

    form = "(NAME OF A TEST)"
    quantities = ("failure_rate",)
    of_model = True

    @classmethod
    def read(cls, words: Sequence[str]) -> OnTest | None:
        return cls(", ".join(words)) if words else None

    def asked(self, options: EvaluationOptions) -> EvaluationOptions:
        return options

    def lacking(self, options: EvaluationOptions, tests: Sequence[str] | None) -> tuple[str, str] | None:
        if options.invariance is None:
            return "is of tests that no option names", "pass invariance=TESTS.yaml"
        names = None if tests is None else [self._written(name) for name in tests]
        if names is None or self.name in names:
            return None
        return f"{options.invariance} has no test {self.name!r}", nearest(self.name, names)

    def of_task(self, kind: Kind) -> set[str]:
        return {*self.quantities} if kind.soft_labels else set()

    def numbers(self, measured: Found, kind: Kind) -> Found:
        tests = measured.get("invariance", {}).get("tests", ())
        return next((test for test in tests if self._written(test["name"]) == self.name), {})

    @staticmethod
    def _written(name: str) -> str:
        """A test's name as conditions write it."""
        return re.sub(r"\s*,\s*", ", ", name.strip())


PLACES: tuple[type[Place], ...] = (Clean, UnderNoise, InBall, UnderTextAttack, InCertificate, OnTest)


def without_defaults(options: EvaluationOptions) -> EvaluationOptions:
    """The options without what nobody asked for: the attack and the noise that are measured if nothing is said."""
    attack, noise = options.attack, options.noise
    if "radii" not in attack.model_fields_set:
        attack = attack.model_copy(update={"radii": ()})
    if not {"rates", "kinds"} & noise.model_fields_set:
        noise = noise.model_copy(update={"rates": (), "kinds": ()})
    return options.model_copy(update={"attack": attack, "noise": noise})
