"""`tracking.json` of a run: its own id."""

from __future__ import annotations

import os
import uuid
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import write_new_json
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory

LOST = "bring it back from a copy; or delete it; MLflow will then list the run as a new one"


def own_id(run: RunDirectory) -> str:
    """The run's own id, created on first use.

    Raises:
        UserError: if tracking.json cannot be read; a new id would make it another run for MLflow.
    """
    if not os.path.lexists(run.tracking):
        write_new_json(run.tracking, {"run_id": uuid.uuid4().hex})  # unless another process just did
    return str(read_tracking(run)["run_id"])


def read_tracking(run: RunDirectory) -> dict[str, Any]:
    """Contents of `tracking.json`; empty if it does not exist.

    Raises:
        UserError: if it is damaged.
    """
    if not os.path.lexists(run.tracking):
        return {}
    noted = read_json(run.tracking, LOST)
    if not isinstance(noted.get("run_id"), str) or not noted["run_id"]:
        raise UserError(Problem(str(run.tracking), None, "does not identify the run", LOST))
    return noted
