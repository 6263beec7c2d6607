"""The MLflow run that groups the trials of a sweep. It does not train itself: the mirror of a trial creates it, and the sweep's
workers update it."""

from __future__ import annotations

import sys
import threading
from typing import Any

from mat_ds.errors import masked, printable
from mat_ds.terminal.display import show
from mat_ds.tracking.content import RUN_ID
from mat_ds.tracking.destination import client_uri, database_file

# Seconds that a worker waits for the server.
PATIENCE = 20.0


def parent_of(client: Any, experiment_id: str, run_id: str, name: str, running: bool = False) -> str:
    """The MLflow id of a parent run, created if it does not exist.

    Args:
        client: an `MlflowClient`.
        experiment_id: of its experiment.
        run_id, name: mat_ds's own id of it (in the tag `mat_ds.parent` of its trials), and its name.
        running: whether a worker will set its final status.
    """

    def found() -> list[Any]:
        wanted = f"tags.\"{RUN_ID}\" = '{run_id}'"
        return list(client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"]))

    if not (runs := found()):
        made = client.create_run(experiment_id, run_name=name, tags={RUN_ID: run_id, "mat_ds.sweep": name}).info.run_id
        if not running:
            client.set_terminated(made)
        runs = found()
        if runs[0].info.run_id != made:  # another trial created it at the same time
            client.delete_run(made)
    return str(runs[0].info.run_id)


def keep_parent(uri: str, experiment: str, run_id: str, name: str, state: dict[str, str], status: str) -> None:
    """Writes a sweep's state to its MLflow run once it has trials.

    If the server does not answer, this takes some seconds, and no trial is lost.

    Args:
        uri, experiment: where the trials are.
        run_id, name: mat_ds's own id of the run, and its name.
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
        except Exception as error:  # anything a server or disk may raise
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
        show(f"the state of the sweep could not be sent to MLflow: {said}", sys.stderr)
