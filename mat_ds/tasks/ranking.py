"""Metrics that rank examples by their probabilities, and the splits on which they are not defined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mat_ds.errors import Problem
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

# Of a class, they compare the examples that have it with those that have not, so a split needs both.
RANKING = ("auroc", "average_precision")


def undefined(spec: TaskSpec, examples: Sequence[Example]) -> dict[str, str]:
    """The task's metrics that a split's labels leave undefined, each with the reason."""
    asked = [name for name in spec.metrics if name in RANKING]
    if not asked:
        return {}
    import numpy as np

    kind = kind_of(spec)
    references = np.asarray(kind.answered(np.zeros((len(examples), kind.outputs), np.float32), examples).references)
    for number, name in enumerate(spec.labels):
        has = references[:, number] == 1 if references.ndim == 2 else references == number
        if has.all() or not has.any():
            reason = f"{'all' if has.all() and len(has) else 'none'} of its {len(examples):,} examples are {name!r}"
            return dict.fromkeys(asked, reason)
    return {}


def undefined_problems(spec: TaskSpec, dev: Mapping[str, Sequence[Example]]) -> Iterator[Problem]:
    """Yields a problem for each metric that is undefined on a dev split, where it would have to select a model."""
    for split, examples in dev.items():
        for name, reason in undefined(spec, examples).items():
            yield Problem("metrics", name, f"is undefined on {split}: {reason}", "give that split examples with and without "
                          "each label, or take another metric")  # fmt: skip
