"""The runs of an MLflow experiment, for reports."""

from __future__ import annotations

import json
import re
from typing import Any

from mat_ds.config.overrides import parse_overrides
from mat_ds.reports.runs import RunData, read_run
from mat_ds.runs.options import RunConfig
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import RUN_ID


def tracked_runs(experiment: str, uri: str | None) -> list[RunData]:
    """Loads runs from their directories if these still exist, else from MLflow.

    Raises:
        UserError: if there is no such experiment, or a run directory cannot be read.
    """
    from mat_ds.registry.connection import errors_told, tracking_uri
    from mat_ds.tracking.history import runs_of

    found = []
    with errors_told(where := tracking_uri(uri)):
        tracked = runs_of(where, experiment)
    for run in tracked:
        if run.directory and RunDirectory(run.directory).events.exists():
            found.append(read_run(run.directory, run.name))
        elif run.params:
            options, environment = recorded_options(run.params), environment_of(run.tags)
            found.append(RunData(run.name, options, run.records, environment, ended=run.status, run_id=run.tags.get(RUN_ID)))
    return found


def recorded_options(params: dict[str, str]) -> dict[str, Any]:
    """The options a run ended with, nested as in `config.yaml`, from MLflow parameters by dotted key; `resume_N.<key>` are
    changes by its N-th resume."""
    resumed = {key: re.match(r"resume_([0-9]+)\.(.*)", key) for key in params}
    changes = sorted((int(match[1]), match[2], params[key]) for key, match in resumed.items() if match)
    flat = {key: text for key, text in params.items() if not resumed[key]} | {key: text for _, key, text in changes}
    tree: dict[str, Any] = {}
    for key, text in flat.items():
        # Parsed as on the command line; a text that is not valid YAML is used as it is.
        read, problems = parse_overrides([f"{key}={text}"], RunConfig)
        *sections, name = key.split(".")
        place, value = tree, read
        for section in sections:
            place = _subsection(place, section)
            value = value.get(section, {})
        place[name] = text if problems else value[name]
    return tree


def _subsection(place: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(place.get(name), dict):
        place[name] = {}
    section: dict[str, Any] = place[name]
    return section


def environment_of(tags: dict[str, str]) -> dict[str, Any]:
    """The parts of `environment.json` that are stored in tags."""
    own = {key.removeprefix("mat_ds."): text for key, text in tags.items() if key.startswith("mat_ds.")}
    packages = {key.removeprefix("package."): text for key, text in own.items() if key.startswith("package.")}
    known: dict[str, Any] = {key: own[key] for key in ("world_size", "data_sha256", "git_commit", "precision") if key in own}
    return {**known, "devices": json.loads(own.get("devices", "[]")), "packages": packages}
