"""What MLflow shows of a run beside its numbers: a description, its data, and the kind of its experiment."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from mat_ds.config.dotted import flatten
from mat_ds.config.names import name_of_task
from mat_ds.errors import masked
from mat_ds.tracking.content import precision_of

NOTE = "mlflow.note.content"
# The start of the digest of the description that mat_ds wrote: one that the user has edited is left alone.
OWN_NOTE = "mat_ds.note"
# Tags of a new experiment. Its kind is what MLflow lists as machine learning, in distinction from agents.
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE: "Language models fine-tuned by mat_ds, with mixed-strategy adversarial training and the methods it is compared with.",
}
# Characters of a digest, which MLflow limits to 36.
DIGEST = 32


def note_tags(
    config: dict[str, Any], environment: dict[str, Any], results: dict[str, Any], tags: dict[str, str]
) -> dict[str, str]:
    """The tags that set a run's description; empty if the user has written one.

    Args:
        config, environment, results: of the run; the last is empty before it has finished.
        tags: of the run in MLflow.
    """
    if NOTE in tags and _note_digest(tags[NOTE]) != tags.get(OWN_NOTE):
        return {}
    note = masked(_sentences(config, environment, results))
    return {NOTE: note, OWN_NOTE: _note_digest(note)}


def _sentences(config: dict[str, Any], environment: dict[str, Any], results: dict[str, Any]) -> str:
    options, found, devices = flatten(config), flatten(results), environment.get("devices") or ["?"]
    said = [
        f"{options.get('method.name', 'A run')} on {dataset_name(config)}",
        f"model {options.get('model.name')}" if "model.name" in options else "",
        f"seed {options.get('seed')}" if "seed" in options else "",
        f"{environment['world_size']} x {', '.join(sorted(set(map(str, devices))))}" if "world_size" in environment else "",
        precision_of(environment) or "",
    ]
    note = ", ".join(filter(None, said)) + "."
    scores = {
        title: found.get(key)
        for title, key in (("last", "last.score"), ("best", "best.score"), ("median of the last half", "median_last_half"))
        if isinstance(found.get(key), (int, float))
    }
    told = ", ".join(f"{title} {score:.4f}" for title, score in scores.items())
    return f"{note}\n\nScore: {told}." if told else note


def dataset_name(config: dict[str, Any]) -> str:
    """The name of a run's data in MLflow: that of its task, or of the task's file."""
    return name_of_task(str(config.get("task", ""))) or "a task"


def _note_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def inputs_of(config: dict[str, Any], environment: dict[str, Any], results: dict[str, Any]) -> list[DatasetInput]:
    """The data that a run is trained on and, once it has finished, evaluated on."""
    options, name = flatten(config), dataset_name(config)
    path = options.get("data.path")
    # MLflow's names for a file or folder, and for whatever the program itself finds.
    kind, source = ("local", {"uri": str(path)}) if path else ("code", {"tags": {"mat_ds.task": name}})
    found = {"training": environment.get("data_sha256"), "evaluation": results.get("dev_sha256")}
    return [
        DatasetInput(
            Dataset(name[:500], digest[:DIGEST], kind, masked(json.dumps(source))), [InputTag("mlflow.data.context", context)]
        )
        for context, digest in found.items()
        if isinstance(digest, str) and digest
    ]
