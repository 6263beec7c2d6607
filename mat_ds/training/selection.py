"""Which evaluation selects the model, and when training ends because no later one is better.

Ranks need not speak to each other for it: the numbers of an evaluation are the same on all. Nor has a resumed run anything to
restore: its checkpoint holds all evaluations, from which everything here is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from mat_ds.evaluation.scores import Scores
from mat_ds.methods.base import plain
from mat_ds.runs.options import EarlyStopping, RunConfig, cost_of
from mat_ds.storage.progress import merit_of
from mat_ds.tasks.measures import merit


def selection_of(by: str | None, splits: Scores) -> dict[str, float]:
    """`selection`, the number by which an evaluation is compared with others, of which more is better; empty if the score is.

    Args:
        by: `train.select_by`: a metric or `loss`, of which the mean over the dev splits counts, or `<split>/<metric>`.
        splits: metrics and loss of each dev split.
    """
    if by is None:
        return {}
    split, _, name = by.rpartition("/")
    chosen = [splits[split]] if split else splits.values()
    return {"selection": mean(merit(name, metrics[name]) for metrics in chosen)}


def waited(evaluations: Sequence[Mapping[str, Any]], min_delta: float) -> int:
    """How many evaluations there were since the last that was better by more than `min_delta` than the best before it."""
    best, since = -float("inf"), 0
    for evaluation in evaluations:
        better = merit_of(evaluation) > best + min_delta
        best, since = (merit_of(evaluation), 0) if better else (best, since + 1)
    return since


def stops_early(stopping: EarlyStopping | None, evaluations: Sequence[Mapping[str, Any]]) -> bool:
    """Whether training ends after the last of these evaluations, of those with which it has not ended before."""
    return stopping is not None and waited(evaluations, stopping.min_delta) >= stopping.patience


def stopping_result(run: RunConfig, evaluations: Sequence[Mapping[str, Any]], step: int, planned: int) -> dict[str, Any]:
    """`early_stopping` of `results.json`: the rule, whether and why it ended training, and what that spared; empty without it.

    Args:
        evaluations: all of the run.
        step, planned: outer steps done, and those that the options ask for.
    """
    stopping = run.train.early_stopping
    if stopping is None:
        return {}
    stopped = step < planned
    by = run.train.select_by or "the score"
    at = evaluations[-1 - waited(evaluations, stopping.min_delta)]
    more = f" by more than {stopping.min_delta:g}" if stopping.min_delta else ""
    reason = f"none of the last {stopping.patience} evaluations was better{more} in {by} than that of step {at['step']}"
    return {
        "early_stopping": {
            **stopping.model_dump(), "by": by, "stopped": stopped, "planned_steps": planned,
            "reason": reason if stopped else None, "forward_units_spared": plain((planned - step) * cost_of(run.method)),
        }
    }  # fmt: skip
