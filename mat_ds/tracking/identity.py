"""`tracking.json` of a run: its own id, and to which MLflow it was delivered."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import write_json, write_new_json
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory

LOST = "bring it back from a copy; or delete it; MLflow will then list the run as a new one"


def own_id(run: RunDirectory) -> str:
    """The run's own id, created on first use.

    Raises:
        UserError: if tracking.json cannot be read; a new id would make it another run for MLflow.
    """
    if not os.path.lexists(run.tracking):
        write_new_json(run.tracking, {"run_id": uuid.uuid4().hex, "mlflow": {}})  # unless another process just did
    return str(read_tracking(run)["run_id"])


def note_delivery(run: RunDirectory, uri: str, run_id: str, experiment: str, place: int) -> None:
    """Notes how far a run's events were delivered. Only informative: MLflow stores this itself."""
    if not run.holds_a_run:  # deleted in the meantime
        return
    noted = read_tracking(run)
    noted["mlflow"] |= {uri: {"run_id": run_id, "experiment": experiment, "delivered": place}}
    with suppress(OSError):  # another user's directory, or a full disk
        write_json(run.tracking, noted)


def delivered(run: RunDirectory, uri: str) -> int:
    """Offset in events.jsonl up to which a run was delivered, as noted."""
    return int(read_tracking(run).get("mlflow", {}).get(uri, {}).get("delivered", 0))


def read_tracking(run: RunDirectory) -> dict[str, Any]:
    """Contents of `tracking.json`; empty if it does not exist.

    Raises:
        UserError: if it is damaged.
    """
    if not os.path.lexists(run.tracking):
        return {}
    noted = read_json(run.tracking, LOST)
    known = noted.get("mlflow")
    whole = isinstance(known, dict) and all(isinstance(at, dict) and _is_place(at.get("delivered", 0)) for at in known.values())
    if not isinstance(noted.get("run_id"), str) or not noted["run_id"] or not whole:
        raise UserError(Problem(str(run.tracking), None, "does not identify the run", LOST))
    return noted


def _is_place(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
