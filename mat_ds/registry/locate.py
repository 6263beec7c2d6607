"""Resolves MODEL on a command line: a run directory, a model folder, a hub id, or a version in the registry."""

from __future__ import annotations

from pathlib import Path

from mat_ds.artifacts.described import folder_of
from mat_ds.errors import Problem, UserError
from mat_ds.models.source import FOLDER_FIX
from mat_ds.tasks.hub import expect_from_hub

REGISTRY = "models:/"
MEANING = "a run directory, a model folder, a hub id, models:/NAME@alias or models:/NAME/VERSION"
URI_MEANING = "the registry; default: MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI, runs/mlflow.db, or the file of the last run"

# Files of a classifier; a hub repository may contain its weights in five more formats.
FILES, OLDER_WEIGHTS = ["*.json", "*.safetensors", "*.txt", "*.model"], ["*.bin"]


def locate(model: str) -> Path:
    """The folder of the model that `model` names; downloads it if necessary.

    Raises:
        UserError: if it cannot be found.
    """
    if model.startswith(REGISTRY):
        from mat_ds.registry.versions import download

        return download(model)
    return folder_of(Path(model)) if _means_a_folder(model) else _download(model)


def is_local(model: str) -> bool:
    """Whether MODEL is a folder named by the user."""
    return not model.startswith(REGISTRY) and _means_a_folder(model)


def _means_a_folder(model: str) -> bool:
    """Whether MODEL is a folder, or has the form of a path."""
    path = Path(model)
    return path.exists() or path.is_absolute() or model.startswith(".") or len(path.parts) > 2


def _download(name: str) -> Path:
    expect_from_hub(name)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=OLDER_WEIGHTS)
    except Exception as error:  # a wrong name, offline mode and no network raise different classes
        reason = f"there is no such folder, and it cannot be loaded from the hub ({type(error).__name__}: {_first_line(error)})"
        raise UserError(
            Problem(
                "model",
                name,
                reason,
                f"{FOLDER_FIX}; or on a machine that can reach the hub, run `hf download {name} --local-dir "
                "<folder>`, and copy the folder here",
            )
        ) from None
    return folder_of(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
