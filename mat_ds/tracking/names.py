"""Names of metrics: events become metrics as users of MLflow, TensorBoard and W&B know them, and back.

`train/loss`, `train/learning_rate`, `train/grad_norm` and `eval/accuracy` are names of transformers' Trainer, `system/...` are
MLflow's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.storage.events import Record

# Event -> prefix of its metrics. In the order in which the events occur within a step.
PREFIXES = {"step": "train", "telemetry": "telemetry", "evaluation": "eval", "system": "system", "checkpoint": "checkpoint"}
# Prefix of what `mat-ds evaluate` found, which is of no event.
ROBUSTNESS = "robustness"
# Fields of `step` that the Trainer calls otherwise.
STEP = {
    "lr": "learning_rate",
    "lr_smallest": "learning_rate_smallest",
    "lr_largest": "learning_rate_largest",
    "gradient_norm": "grad_norm",
}
# Fields of `system` as MLflow calls them, and the size of their unit in MLflow's; GPU 0 is that of the first rank.
SYSTEM = {
    "cpu_percent": ("cpu_utilization_percentage", 1.0),
    "memory_percent": ("system_memory_usage_percentage", 1.0),
    "gpu_percent": ("gpu_0_utilization_percentage", 1.0),
    "gpu_memory_percent": ("gpu_0_memory_usage_percentage", 1.0),
    "gpu_memory_mib": ("gpu_0_memory_usage_megabytes", 2**20 / 1e6),
}
RANK_MEMORY = "rank_memory_mib"
# The dev split that is not named in `eval/accuracy`; other splits are, as in `eval/validation_matched/accuracy`.
USUAL_SPLIT = "validation"
# The other kind of weights that an evaluation may hold scores of.
WEIGHTS = ("raw", "average")
# An int in an untrusted file may exceed the largest float.
LARGEST = sys.float_info.max


def event_metrics(record: Record) -> dict[str, float]:
    """The numbers of an event by metric name, such as `train/loss`, `eval/accuracy`, `telemetry/cosine`."""
    event, fields = record["event"], {key: value for key, value in record.items() if key not in ("event", "step", "time")}
    if event == "step":
        fields = {STEP.get(key, key): value for key, value in fields.items()}
    elif event == "evaluation":
        fields = {key: _scores_by_split(value) if key in WEIGHTS else value for key, value in _scores_by_split(fields).items()}
    elif event == "system":
        fields = _load_of_machine(fields)
    return numbers_of(fields, f"{PREFIXES.get(event, event)}/")


def _scores_by_split(fields: Any) -> Any:
    """Scores by split with the metrics of the usual split beside the others' names."""
    if not isinstance(fields, dict) or not isinstance(usual := fields.get(USUAL_SPLIT), dict):
        return fields
    plain = {name: value for name, value in usual.items() if name not in fields}
    rest = {name: value for name, value in usual.items() if name in fields}
    return {**fields, **plain, USUAL_SPLIT: rest}


def _load_of_machine(fields: dict[str, Any]) -> dict[str, Any]:
    """Memory and load as MLflow calls them."""
    found = dict(fields)
    for key, (name, unit) in SYSTEM.items():
        if isinstance(value := found.pop(key, None), (int, float)):
            found[name] = value * unit
    if isinstance(ranks := found.pop(RANK_MEMORY, None), list):
        megabytes = SYSTEM["gpu_memory_mib"][1]
        values = [value * megabytes if isinstance(value, (int, float)) else None for value in ranks]
        found |= {f"rank_{rank}_memory_usage_megabytes": value for rank, value in enumerate(values)}
    return found


def numbers_of(tree: dict[str, Any], prefix: str) -> dict[str, float]:
    """The finite numbers in nested fields and lists, and those that are not a number, by their path after a prefix."""
    lists = {key: dict(enumerate(value)) if isinstance(value, list) else value for key, value in tree.items()}
    return {
        key: float(value)
        for key, value in flatten(lists, "/", prefix).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > LARGEST
    }


def records_of(points: Iterable[tuple[str, int, int, float]]) -> list[Record]:
    """Rebuilds steps, telemetry and evaluations from metrics, in order of time; for repeated steps the later values are kept.

    Args:
        points: name, step, time in milliseconds and value of each point. Names may be those of earlier versions: `loss`,
            `lr`, `validation/accuracy`.
    """
    found: dict[tuple[str, int], Record] = {}
    for name, step, time, value in sorted(points, key=lambda point: point[2]):
        event, path = place_of(name)
        if event not in ("step", "telemetry", "evaluation"):
            continue
        record = found.setdefault((event, step), {"event": event, "step": step})
        record["time"] = time / 1000
        node = record
        for parent in path[:-1]:
            node = node.setdefault(parent, {})
        node[path[-1]] = value
    order = list(PREFIXES)
    return sorted(found.values(), key=lambda record: (record["time"], record["step"], order.index(record["event"])))


def place_of(name: str) -> tuple[str, list[str]]:
    """The event of a metric, and the path of its value in it."""
    first, *rest = name.split("/")
    events = {prefix: event for event, prefix in PREFIXES.items()}
    if not rest:  # an earlier version
        return ("evaluation" if first == "score" else "step"), [first]
    if first == "train":
        fields = {theirs: own for own, theirs in STEP.items()}
        return "step", [fields.get(rest[0], rest[0]), *rest[1:]]
    if first == "eval":
        weights = [rest.pop(0)] if rest[0] in WEIGHTS and len(rest) > 1 else []
        split = [USUAL_SPLIT] if len(rest) == 1 and rest[0] not in ("score", "selection") else []
        return "evaluation", [*weights, *split, *rest]
    if first in (*events, "results", ROBUSTNESS):
        return events.get(first, first), rest
    return "evaluation", [first, *rest]  # an earlier version
