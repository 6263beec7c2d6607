"""Keeps with a registered version what a gate required of it and found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from huggingface_hub import ModelCard
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion

from mat_ds.artifacts.card import CARD
from mat_ds.artifacts.robustness import with_gate
from mat_ds.registry.connection import client_of, errors_told, registry_uri
from mat_ds.registry.versions import PREFIX, Registered, address_of_runs
from mat_ds.storage.disk import write_text
from mat_ds.tracking.content import TAG_CHARACTERS

# The folder of a logged model that has its card.
MODEL = "model"


def keep_verdict(entry: Registered, tags: Mapping[str, str], report: Path, uri: str | None) -> None:
    """Stores what was required of a version and found: as its tags, in its card, and the report as an artifact of its run.

    Args:
        tags: without the prefix; a longer value than MLflow takes everywhere is left out.
        report: the file.
        uri: the registry, as for `promote`.
    """
    with errors_told(where := registry_uri(uri)):
        client = client_of(address_of_runs(where, uri), where)
        for key, value in tags.items():
            kept = value if len(value) <= TAG_CHARACTERS else ""
            client.set_model_version_tag(entry.name, str(entry.version), PREFIX + key, kept)
        version = client.get_model_version(entry.name, str(entry.version))
        if version.run_id:
            client.log_artifact(version.run_id, str(report), f"gate/{entry.name}-{entry.version}")
        if model := _logged_model(client, version):
            _note_in_card(client, model, json.loads(report.read_text(encoding="utf-8")))


def _logged_model(client: MlflowClient, version: ModelVersion) -> LoggedModel | None:
    """The logged model that a version is, which not every registry notes; None if it is none."""
    outputs = client.get_run(version.run_id).outputs if version.run_id else None
    models = (client.get_logged_model(one.model_id) for one in (outputs.model_outputs if outputs else ()))
    return next((model for model in models if model.artifact_location == version.source), None)


def _note_in_card(client: MlflowClient, model: LoggedModel, report: Mapping[str, Any]) -> None:
    """Replaces the card of a logged model, if it has one, by one with the verdict."""
    with TemporaryDirectory() as scratch:
        new = Path(scratch) / MODEL / CARD
        if CARD not in {Path(file.path).name for file in client.list_logged_model_artifacts(model.model_id, MODEL)}:
            return
        place = f"{model.artifact_location}/{MODEL}/{CARD}"
        old = mlflow.artifacts.download_artifacts(place, dst_path=scratch, tracking_uri=client.tracking_uri)
        card = ModelCard.load(old)
        card.text = with_gate(card.text, report)
        new.parent.mkdir()
        write_text(new, str(card))
        client.log_model_artifact(model.model_id, str(new), MODEL)
