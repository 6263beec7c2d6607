"""How long a run goes on, and when it is evaluated."""

from __future__ import annotations

from mat_ds.runs.options import RunConfig


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the outer steps of a run."""
    return run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int) -> set[int]:
    """Numbers of done steps after which to evaluate: `per_epoch` times an epoch, evenly, and at the end."""
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {point for point in points if 0 < point <= total} | {total}
