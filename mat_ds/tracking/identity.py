"""Who a run is to MLflow, in its `tracking.json`: its own id, and where it was delivered under which."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from typing import Any

from mat_ds.rundir import RunDirectory, write_json


def own_id(run: RunDirectory) -> str:
    """The run's own id, made when it is first asked for and kept from then on."""
    noted = read_tracking(run)
    if "run_id" not in noted:
        noted = {"run_id": uuid.uuid4().hex, "mlflow": {}}
        write_json(run.tracking, noted)
    return str(noted["run_id"])


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
    """What `tracking.json` holds; nothing, where there is none that can be read."""
    try:
        return dict(json.loads(run.tracking.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
