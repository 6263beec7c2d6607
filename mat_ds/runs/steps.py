"""The number of steps of a run, and the steps at which it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mat_ds.errors import Problem
from mat_ds.runs.options import RunConfig, budget_steps
from mat_ds.sampling.schedule import cycles_of


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the number of outer steps of a run."""
    return budget_steps(run) or run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int) -> set[int]:
    """The steps after which to evaluate: `per_epoch` times per epoch, evenly spaced, and after the last step."""
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {point for point in points if 0 < point <= total} | {total}


def snapshot_points(run: RunConfig, total: int) -> list[int]:
    """The steps after which `train.snapshots` keeps the parameters: of M, the i-th at T/2 + i T / (2 M), rounded. With cycles,
    as many of each, spread in the same way over the stage in which it draws samples."""
    stages: Sequence[tuple[float, float]] = [(total / 2, total)]
    if run.sampling.cycles:
        stages = cycles_of(run.optimizer, run.sampling, total).stages
    each = run.train.snapshots // len(stages)
    return sorted({round(begin + (end - begin) * i / each) for begin, end in stages for i in range(1, each + 1)})


def snapshot_problems(run: RunConfig, examples: int) -> Iterator[Problem]:
    """Yields a problem if a run has fewer steps than snapshots to keep.

    Args:
        examples: of its training set.
    """
    total = total_steps(run, examples // run.train.batch_size)
    if examples >= run.train.batch_size and len(snapshot_points(run, total)) < run.train.snapshots:
        where = "the stages of the cycles have" if run.sampling.cycles else "the last half has"
        reason = f"is more than {where} of the {total} outer steps of this run"
        yield Problem("train.snapshots", run.train.snapshots, reason, "keep fewer, or train longer")
