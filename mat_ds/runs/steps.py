"""The number of steps of a run, and the steps at which it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mat_ds.errors import Problem
from mat_ds.runs.options import RunConfig, budget_steps
from mat_ds.sampling.schedule import cycles_of


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the number of outer steps of a run."""
    return budget_steps(run) or run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def meets_after(run: RunConfig, step: int, total: int) -> bool:
    """Whether the chains meet when so many outer steps are done: every `train.local_steps`, and after the last."""
    return step % run.train.local_steps == 0 or step >= total


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int, every: int = 1) -> set[int]:
    """The steps after which to evaluate: `per_epoch` times per epoch, evenly spaced, and after the last step.

    Args:
        every: outer steps between two meetings of the chains, the next of which each evaluation waits for.
    """
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {_at_meeting(point, every, total) for point in points if 0 < point <= total} | {total}


def snapshot_points(run: RunConfig, total: int, chains: int = 1) -> list[int]:
    """The steps after which `train.snapshots` keeps the parameters: of M, the i-th at T/2 + i T / (2 M), rounded. With cycles,
    as many of each, spread in the same way over the stage in which it draws samples. Several chains have met there, and
    each may have a member of its own (`train.snapshots_of`)."""
    stages: Sequence[tuple[float, float]] = [(total / 2, total)]
    if run.sampling.cycles:
        stages = cycles_of(run.optimizer, run.sampling, total).stages
    each = run.train.snapshots // _members(run, chains) // len(stages)
    points = {round(begin + (end - begin) * i / each) for begin, end in stages for i in range(1, each + 1)}
    return sorted({_at_meeting(point, run.train.local_steps, total) for point in points})


def _members(run: RunConfig, chains: int) -> int:
    """Members that are kept at a step."""
    return chains if run.train.snapshots_of == "chains" else 1


def _at_meeting(step: int, every: int, total: int) -> int:
    """The step of the first meeting of the chains that is not before a step."""
    return min(total, -(-step // every) * every)


def snapshot_problems(run: RunConfig, examples: int, chains: int = 1) -> Iterator[Problem]:
    """Yields a problem if a run has fewer steps than snapshots to keep.

    Args:
        examples: of its training set.
        chains: how many it has.
    """
    total = total_steps(run, examples // run.train.batch_size)
    kept = len(snapshot_points(run, total, chains)) * _members(run, chains)
    if examples >= run.train.batch_size and kept < run.train.snapshots:
        where = "the stages of the cycles have" if run.sampling.cycles else "the last half has"
        meetings = f"; the chains meet every {run.train.local_steps}" if run.train.local_steps > 1 else ""
        reason = f"is more than {where} of the {total} outer steps of this run{meetings}"
        yield Problem("train.snapshots", run.train.snapshots, reason, "keep fewer, or train longer")
