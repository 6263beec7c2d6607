"""Who a run is to MLflow, in its `tracking.json`: its own id, and where it was delivered under which."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import write_json, write_new_json
from mat_ds.storage.reading import read_json
from mat_ds.storage.rundir import RunDirectory

LOST = "bring it back from a copy; or delete it, and the run is a new one to MLflow"


def own_id(run: RunDirectory) -> str:
    """The run's own id, made when it is first asked for and kept from then on.

    Raises:
        UserError: if there is one that cannot be read: a new one would make it another run to everybody who knows it.
    """
    if not os.path.lexists(run.tracking):
        write_new_json(run.tracking, {"run_id": uuid.uuid4().hex, "mlflow": {}})  # unless another process has just done so
    return str(read_tracking(run)["run_id"])


def note_delivery(run: RunDirectory, uri: str, run_id: str, experiment: str, place: int) -> None:
    """Notes that an MLflow has the run, up to a place in its events. For readers only: MLflow itself knows too."""
    if not run.holds_a_run:  # it has been deleted meanwhile
        return
    noted = read_tracking(run)
    noted["mlflow"] |= {uri: {"run_id": run_id, "experiment": experiment, "delivered": place}}
    with suppress(OSError):  # the directory of another user, or a full disk
        write_json(run.tracking, noted)


def delivered(run: RunDirectory, uri: str) -> int:
    """Up to where in its events a run was delivered, as far as it has been noted."""
    return int(read_tracking(run).get("mlflow", {}).get(uri, {}).get("delivered", 0))


def read_tracking(run: RunDirectory) -> dict[str, Any]:
    """What `tracking.json` holds; nothing, where there is none.

    Raises:
        UserError: if it is torn, or not what `own_id` wrote.
    """
    if not os.path.lexists(run.tracking):
        return {}
    noted = read_json(run.tracking, LOST)
    known = noted.get("mlflow")
    whole = isinstance(known, dict) and all(isinstance(at, dict) and _is_place(at.get("delivered", 0)) for at in known.values())
    if not isinstance(noted.get("run_id"), str) or not noted["run_id"] or not whole:
        raise UserError(Problem(str(run.tracking), None, "does not say which run this is", LOST))
    return noted


def _is_place(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
