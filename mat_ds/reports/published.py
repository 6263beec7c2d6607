"""Published results, and how measured scores differ in their conditions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from mat_ds.config.yaml_files import parse_yaml
from mat_ds.reports.groups import Group
from mat_ds.tasks.measures import measure_of
from mat_ds.tasks.registry import TASKS, TRAINING_EXAMPLES


@cache
def published() -> dict[str, Any]:
    """Contents of published.yaml: published results with their sources."""
    return dict(parse_yaml(files("mat_ds.reports").joinpath("published.yaml").read_text(encoding="utf-8")))


def metrics_of(task: str) -> list[str]:
    """`<split>/<metric>` of all that is published for a task, in the order of its numbers; a single published number is the
    first."""
    spec = TASKS[task]
    return [f"{split}/{metric}" for split in spec.dev for metric in spec.metrics]


def metric_title(name: str) -> str:
    """Title of `<split>/<metric>`, or of the score."""
    return measure_of(name.rpartition("/")[2]).title


def source_of(groups: Sequence[Group]) -> str:
    """How our scores were obtained, if not under published conditions: unfinished runs, or parts of the data.

    Args:
        groups: of one table row, each on another task.
    """
    parts = ["measured", *(["unfinished"] if not all(group.finished for group in groups) else [])]
    limits = list({limits_of(group, totals=len(groups) == 1) for group in groups})
    if len(limits) > 1:
        limits = [f"{group.task} {words}" for group in groups if (words := limits_of(group))]
    return ", ".join(filter(None, [*parts, *limits]))


def limits_of(group: Group, totals: bool = True) -> str:
    """For runs on part of the data, a note such as `on 100 of 1,043 dev examples, trained on ...`; else empty.

    Args:
        totals: whether to add the full numbers, where known.
    """
    spec, name = TASKS.get(group.task), group.task
    # the training examples of `also_train_on` are not counted
    known = {
        "eval": published()["dev_examples"].get(name),
        "train": None if spec is None or spec.also_train_on else TRAINING_EXAMPLES.get(name),
    }
    parts = []
    for option, before, after in (("eval", "on", "dev examples"), ("train", "trained on", "examples")):
        limit, whole = group.options.get(f"data.{option}_limit"), known[option]
        if limit and (whole is None or limit < whole):
            of = f" of {whole:,}" if whole and totals else ""
            each = " of each split" if option == "eval" and spec and len(spec.dev) > 1 else ""
            parts.append(f"{before} {limit:,}{of} {after}{each}")
    return ", ".join(parts)
