"""Tracking options of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from mat_ds.config.dotted import flatten
from mat_ds.config.names import Name
from mat_ds.config.paths import expanded_address
from mat_ds.config.section import Section
from mat_ds.errors import Problem
from mat_ds.tracking.destination import absolute_uri, uri_problems
from mat_ds.tracking.variables import EXPERIMENT_NAME, TRACKING_URI, named

# The experiment of a run that names none, and the longest name that MLflow allows.
EXPERIMENT, LONGEST_NAME = "mat_ds", 500


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
        description="MLflow server or database that mirrors the run; `none`: no mirror; null: MLFLOW_TRACKING_URI, or the "
        "SQLite file `mlflow.db` beside the run directory",
    )
    experiment: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None = Field(
        None, description="MLflow experiment of the run; null: MLFLOW_EXPERIMENT_NAME, or `mat_ds`"
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

    def settled(self) -> TrackingConfig:
        """The same options, with the address and the experiment that MLflow's variables name where no option does."""
        uri = self.uri if self.uri is not None else absolute_uri(named(TRACKING_URI))
        return self.model_copy(update={"uri": uri, "experiment": self.experiment or named(EXPERIMENT_NAME) or EXPERIMENT})

    def decided_by(self) -> dict[str, str]:
        """What decides the address and the experiment: an option, a variable, or the default."""
        variables = {"uri": TRACKING_URI, "experiment": EXPERIMENT_NAME}
        return {
            option: f"tracking.{option}" if getattr(self, option) else variable if named(variable) else "default"
            for option, variable in variables.items()
        }

    def problems(self) -> Iterator[Problem]:
        """Yields a problem if the address is not acceptable, or the name of the experiment is too long."""
        yield from uri_problems("tracking.uri" if self.uri is not None else TRACKING_URI, self.settled().uri)
        if self.experiment is None and len(name := named(EXPERIMENT_NAME) or "") > LONGEST_NAME:
            yield Problem(EXPERIMENT_NAME, name, f"has more than {LONGEST_NAME} characters", "choose a shorter name")
