"""Maps a run to MLflow's terms: options to parameters, events to metrics, the environment to tags."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from mat_ds.config.dotted import flatten
from mat_ds.errors import masked
from mat_ds.storage.events import Record
from mat_ds.tracking.names import event_metrics, numbers_of

# Maximum characters of a value. MLflow's own limits are 6000 and 8000, but some servers take less.
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 5000
# It accepts 1000 entities per batch, at most 100 of them parameters or tags.
METRICS, PARAMS = 900, 100
RUN_ID, DIRECTORY, FILES = "mat_ds.run_id", "mat_ds.run_directory", "mat_ds.files"
# Another tag than when metrics had other names, so that older runs are delivered again under the names of today.
DELIVERED = "mat_ds.delivered_bytes"
# Fields that differ when a step is repeated after an interruption.
MEASURED = {"time", "samples_per_second", "tokens_per_second", "seconds", "bytes"}


def params_of(config: dict[str, Any], starts: list[dict[str, Any]]) -> dict[str, str]:
    """The options that a run began with, by dotted key; what its N-th resume changed is `resume_N.<key>`.

    Args:
        config: its current options.
        starts: `starts` of its environment.json.
    """
    options, changed = flatten(config), {}
    for number in reversed(range(len(starts))):
        for key, pair in starts[number].get("changed", {}).items():
            options[key], changed[f"resume_{number}.{key}"] = pair
    return {allowed_key(key): masked(_as_param(value))[:PARAM_CHARACTERS] for key, value in {**options, **changed}.items()}


def tags_of(environment: dict[str, Any], chosen: dict[str, str]) -> dict[str, str]:
    """Tags for a run: machine, versions, precision, data, and the user's own tags."""
    packages = {f"package.{name}": version for name, version in environment.get("packages", {}).items()}
    known = ("world_size", "devices", "platform", "python", "data_sha256", "git_commit")
    said = {name: environment[name] for name in known if environment.get(name) is not None}
    tags = {f"mat_ds.{name}": _as_param(value) for name, value in {**said, **packages}.items()}
    if precision := precision_of(environment):
        tags["mat_ds.precision"] = precision
    tags["mat_ds.starts"] = str(len(environment.get("starts", [])))
    if commit := environment.get("git_commit"):
        tags["mlflow.source.git.commit"] = commit
    if command := environment.get("command"):
        tags |= {"mlflow.source.name": command[0], "mlflow.source.type": "LOCAL"}
    return {allowed_key(key): value[:TAG_CHARACTERS] for key, value in {**tags, **chosen}.items()}


def precision_of(environment: dict[str, Any]) -> str | None:
    """fp16, bf16 or fp32, from the run's DeepSpeed configuration; None without one."""
    ds_config = environment.get("deepspeed_config")
    if ds_config is None:
        return None
    sections = {half: ds_config.get(half) for half in ("fp16", "bf16")}
    return next((half for half, section in sections.items() if isinstance(section, dict) and section.get("enabled")), "fp32")


def status_of(end: Record) -> str:
    """MLflow's status for a run's end event."""
    status = end.get("status")
    return status if status in ("FINISHED", "KILLED") else "FAILED"


def result_metrics(results: dict[str, Any]) -> dict[str, float]:
    """The numbers of `results.json` by metric name, such as `results/best/score`."""
    return {allowed_key(name): value for name, value in numbers_of(results, "results/").items()}


def essence(record: Record) -> Record:
    """A record without the fields that differ when its step is repeated."""
    looking_on = record["event"] in ("checkpoint", "system")
    return {} if looking_on else {key: value for key, value in record.items() if key not in MEASURED}


def batches(records: Iterable[tuple[int, Record]], most: int) -> Iterator[tuple[int, list[tuple[str, float, int, int]]]]:
    """Groups the metrics of consecutive records into batches of at most `most` points; records are never split.

    Args:
        records: each with the file offset after it.

    Returns:
        For each batch the offset after its last record, and its points (name, value, time in milliseconds, step).
    """
    points: list[tuple[str, float, int, int]] = []
    behind = 0
    for place, record in records:
        time = milliseconds(record)
        new = [(allowed_key(name), value, time, record["step"]) for name, value in event_metrics(record).items()]
        if points and len(points) + len(new) > most:
            yield behind, points
            points = []
        behind = place
        points += new
    if behind:
        yield behind, points


def milliseconds(record: Record) -> int:
    """The time of a record in milliseconds."""
    return math.floor(1000 * record["time"] + 0.5)


def _as_param(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def allowed_key(key: str) -> str:
    """A key with characters that MLflow does not allow replaced by _."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:250]
