"""How far a run has come, and what it has scored on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Progress:
    """All of a run that a checkpoint must hold besides the engine's shards; JSON types only.

    Attributes:
        step: outer steps done.
        evaluations: `step`, `score` and the metrics of each evaluation so far; where a running average is kept, those of
            the weights that are not exported under `raw` or `average`.
        seconds: time spent in outer steps.
        samples: training examples seen.
        tokens: their real tokens.
        skipped_steps: inner steps that the engine repeated because fp16 overflowed.
    """

    step: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    skipped_steps: int = 0

    @property
    def evaluated(self) -> bool:
        """Whether the parameters as they stand have been."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == self.step

    @property
    def best(self) -> dict[str, Any]:
        """The first of the best evaluations."""
        return max(self.evaluations, key=lambda evaluation: float(evaluation["score"]))

    def results(self) -> dict[str, Any]:
        """What `results.json` says of scores and speed."""
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
        best = max(evaluations, key=lambda evaluation: float(evaluation["score"]))
        return {"last": evaluations[-1], "best": best, "median_last_half": median(last_half(evaluations, self.step))}


def last_half(evaluations: list[dict[str, Any]], steps: int, name: str = "score") -> list[float]:
    """One of the scores of the evaluations in the second half of `steps` outer steps."""
    return [float(evaluation[name]) for evaluation in evaluations if evaluation["step"] >= steps / 2]
