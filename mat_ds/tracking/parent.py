"""The run that MLflow shows the trials of a sweep under. It has no training of its own: who mirrors a trial makes it, if it is
not there, and the sweep's workers keep it."""

from __future__ import annotations

import sys
import threading
from typing import Any

from mat_ds.errors import masked, printable
from mat_ds.terminal.display import show
from mat_ds.tracking.content import RUN_ID
from mat_ds.tracking.destination import client_uri, database_file

# Seconds that a worker waits for a server; its trials need none.
PATIENCE = 20.0


def parent_of(client: Any, experiment_id: str, run_id: str, name: str, running: bool = False) -> str:
    """MLflow's id of the run above those whose tag `mat_ds.parent` names it, made if it is not there.

    Args:
        client: an `MlflowClient`.
        experiment_id: where it is.
        run_id, name: this program's own id of it, and what it is called.
        running: whether a worker of it is there, who will say how it ends.
    """

    def found() -> list[Any]:
        wanted = f"tags.\"{RUN_ID}\" = '{run_id}'"
        return list(client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"]))

    if not (runs := found()):
        made = client.create_run(experiment_id, run_name=name, tags={RUN_ID: run_id, "mat_ds.sweep": name}).info.run_id
        if not running:
            client.set_terminated(made)
        runs = found()
        if runs[0].info.run_id != made:  # another trial's made it at the same moment
            client.delete_run(made)
    return str(runs[0].info.run_id)


def keep_parent(uri: str, experiment: str, run_id: str, name: str, state: dict[str, str], status: str) -> None:
    """Writes to the run of a sweep how the sweep stands, once trials of it are there. A server that does not answer costs
    seconds, and no trial.

    Args:
        uri, experiment: where the trials are.
        run_id, name: this program's own id of the run, and what it is called.
        state, status: its tags, and RUNNING, FINISHED, KILLED or FAILED.
    """
    failures: list[str] = []

    def keep() -> None:
        try:
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=client_uri(uri))
            if known := client.get_experiment_by_name(experiment):
                run = parent_of(client, known.experiment_id, run_id, name)
                for key, value in state.items():
                    client.set_tag(run, key, value)
                client.update_run(run, status) if status == "RUNNING" else client.set_terminated(run, status)
        except Exception as error:  # whatever a server or a disk comes up with
            failures.append(printable(masked((str(error) or type(error).__name__).splitlines()[0])))

    file = database_file(uri)
    if file and not file.exists():
        return
    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if thread.is_alive():
        failures.append(f"no answer within {PATIENCE:.0f} s")
    for said in failures:
        show(f"MLflow is not told how the sweep stands: {said}", sys.stderr)
