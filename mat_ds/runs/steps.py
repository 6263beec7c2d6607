"""The number of steps of a run, and the steps at which it is evaluated."""

from __future__ import annotations

from mat_ds.runs.options import RunConfig, budget_steps


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the number of outer steps of a run."""
    return budget_steps(run) or run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int) -> set[int]:
    """The steps after which to evaluate: `per_epoch` times per epoch, evenly spaced, and after the last step."""
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {point for point in points if 0 < point <= total} | {total}
