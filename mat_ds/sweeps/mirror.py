"""How trackers know the runs of a sweep for runs of one sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mat_ds.config.schema import RunConfig


def tracking_options(run: RunConfig, folder: Path, number: int, parent: str | None) -> list[str]:
    """The `tracking.*` options of one run of many.

    Args:
        run: the options they have in common.
        folder: of them all; its name is that of their experiment, unless the user gave one.
        number: of the run.
        parent: this program's own id of the run that is above them all, if there is one.
    """
    tracking: Any = run.tracking
    fields = type(tracking).model_fields
    if "experiment" not in fields:
        return []
    tags = {
        **tracking.tags,
        "mat_ds.sweep": folder.name,
        "mat_ds.trial": str(number),
        **({"mat_ds.parent": parent} if parent else {}),
    }
    given = [f"tracking.tags={json.dumps(tags)}", f"tracking.uri={json.dumps(mirror_of(run, folder))}"]
    own_experiment = tracking.experiment != fields["experiment"].default
    return given if own_experiment else [*given, f"tracking.experiment={json.dumps(folder.name)}"]


def mirror_of(run: RunConfig, folder: Path) -> str:
    """The MLflow of the runs: what the user gave, else the database of the folder beside other runs. Jobs of a cluster must not
    write to one SQLite file at once: they have none, and `mat-ds sync` delivers later."""
    if uri := getattr(run.tracking, "uri", None):
        return str(uri)
    return "none" if "SLURM_JOB_ID" in os.environ else f"sqlite:///{folder.resolve().parent / 'mlflow.db'}"
