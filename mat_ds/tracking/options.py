"""Tracking options of a run."""

from __future__ import annotations

import json
import warnings
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from mat_ds.config.dotted import flatten
from mat_ds.config.names import Name
from mat_ds.config.paths import expanded_address
from mat_ds.config.section import Section
from mat_ds.tracking.destination import absolute_uri


def _flat_tags(value: object) -> object:
    """Tags as text, also if YAML parsed a number; names may contain dots."""
    if not isinstance(value, dict):
        return value
    return {name: json.dumps(tag) if isinstance(tag, (int, float)) else tag for name, tag in flatten(value).items()}


# Pydantic warns that the field hides `ABCMeta.register`, which is never called here.
warnings.filterwarnings("ignore", 'Field name "register"')


class TrackingConfig(Section):
    uri: Annotated[str, AfterValidator(expanded_address), AfterValidator(absolute_uri)] | None = Field(
        None,
        description="MLflow server or database that mirrors the run; `none`: no mirror; null: the SQLite file "
        "`mlflow.db` beside the run directory",
    )
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        "mat_ds", description="MLflow experiment of the run"
    )
    run_name: Annotated[str, Field(min_length=1, max_length=250)] | None = Field(
        None, description="name of the run in MLflow; null: that of its directory"
    )
    tags: Annotated[dict[str, str], BeforeValidator(_flat_tags)] = Field(
        {}, description="tags of the run in MLflow: `tracking.tags.<name>=<text>`"
    )
    register: Name | None = Field(
        None, description="name under which MLflow's registry gets the model of the finished run; null: none"
    )
