"""The progress of a run: steps done, scores, time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from statistics import median
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from pydantic import NonNegativeInt as Count


@dataclass
class Progress:
    """A run's own state in a checkpoint, besides the engine's shards; JSON types only.

    Attributes:
        step: outer steps done.
        evaluations: `step`, `score` and metrics of each evaluation, and `selection` if another number than the score selects
            the best. If a running average is kept, the scores of the weights
            that are not exported are under `raw` or `average`.
        seconds: time spent in outer steps.
        samples: training examples seen.
        tokens: tokens seen, without padding.
        skipped_steps: inner steps repeated because fp16 overflowed.
        exported: step of the evaluation whose weights are in `model/`; None if it is empty.
    """

    step: Count = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: FiniteFloat = 0.0
    samples: Count = 0
    tokens: Count = 0
    skipped_steps: Count = 0
    exported: Count | None = None

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Progress:
        """From a checkpoint's state; unknown fields of other versions are ignored."""
        known = {each.name for each in fields(cls)}
        progress = cls(**{name: value for name, value in state.items() if name in known})
        if "exported" not in state and progress.evaluations:
            progress.exported = int(progress.best["step"])
        return progress

    @property
    def evaluated(self) -> bool:
        """Whether the current parameters have been evaluated."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == self.step

    @property
    def in_model(self) -> dict[str, Any] | None:
        """The evaluation of the weights in `model/`; None if there are none."""
        return next((evaluation for evaluation in self.evaluations if evaluation["step"] == self.exported), None)

    @property
    def improved(self) -> bool:
        """Whether the last evaluation is better than that of the weights in `model/`, or there are none."""
        held = self.in_model
        return held is None or merit_of(self.evaluations[-1]) > merit_of(held)

    @property
    def best(self) -> dict[str, Any]:
        """The best evaluation; of equal ones the first."""
        return max(self.evaluations, key=merit_of)

    def results(self) -> dict[str, Any]:
        """Scores and speed for `results.json`."""
        return {
            "steps": self.step,
            **self._summary(self.evaluations),
            **{
                weights: self._summary([{"step": e["step"], **e[weights]} for e in self.evaluations])
                for weights in ("raw", "average")
                if weights in self.evaluations[-1]
            },
            "seconds": self.seconds,
            "samples_per_second": self.samples / max(self.seconds, 1e-9),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
        }

    def _summary(self, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
        best = max(evaluations, key=merit_of)
        return {"last": evaluations[-1], "best": best, "median_last_half": median(last_half(evaluations, self.step))}


def merit_of(evaluation: Mapping[str, Any]) -> float:
    """The number that selects the best evaluation: `selection` if there is one, else the score. More is better."""
    return float(evaluation.get("selection", evaluation["score"]))


def last_half(evaluations: list[dict[str, Any]], steps: int, name: str = "score") -> list[float]:
    """One metric of the evaluations in the second half of `steps` outer steps."""
    return [float(evaluation[name]) for evaluation in evaluations if evaluation["step"] >= steps / 2]


def progress_fault(state: dict[str, Any]) -> str | None:
    """Why a checkpoint's state is not a valid `Progress`; None if it is."""
    try:
        progress = TypeAdapter(Progress).validate_json(json.dumps(state), strict=True)
    except RecursionError:
        return "it is nested too deeply"
    except ValidationError as error:
        found = error.errors()[0]
        return " ".join(map(str, (*found["loc"], found["msg"])))
    good = all(
        type(each.get("step")) is int and {type(each.get("score")), type(each.get("selection", 0.0))} <= {int, float}
        for each in progress.evaluations
    )
    return None if good else "evaluations is not a list of scores"
