"""The number of steps of a run, and the steps at which it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator

from mat_ds.errors import Problem
from mat_ds.runs.options import RunConfig, budget_steps


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the number of outer steps of a run."""
    return budget_steps(run) or run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int) -> set[int]:
    """The steps after which to evaluate: `per_epoch` times per epoch, evenly spaced, and after the last step."""
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {point for point in points if 0 < point <= total} | {total}


def snapshot_points(run: RunConfig, total: int) -> list[int]:
    """The steps after which `train.snapshots` keeps the parameters: of M, the i-th at T/2 + i T / (2 M), rounded."""
    count = run.train.snapshots
    return sorted({round(total / 2 * (1 + i / count)) for i in range(1, count + 1)})


def snapshot_problems(run: RunConfig, examples: int) -> Iterator[Problem]:
    """Yields a problem if a run has fewer steps than snapshots to keep.

    Args:
        examples: of its training set.
    """
    total = total_steps(run, examples // run.train.batch_size)
    if examples >= run.train.batch_size and len(snapshot_points(run, total)) < run.train.snapshots:
        reason = f"is more than the last half of the {total} outer steps of this run has"
        yield Problem("train.snapshots", run.train.snapshots, reason, "keep fewer, or train longer")
