"""The parent run of a sweep's trials, in a real MLflow database and with an unreachable server."""

import time

import pytest
from mlflow import MlflowClient

from mat_ds.tracking import parent
from mat_ds.tracking.parent import keep_parent, parent_of


def test_a_sweep_has_one_parent_run_with_its_state(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    keep_parent(uri, "lam", "cafe", "lam", {}, status="RUNNING")
    assert not (tmp_path / "mlflow.db").exists()  # the mirror of a trial creates the tables
    client = MlflowClient(tracking_uri=uri)
    keep_parent(uri, "lam", "cafe", "lam", {}, status="RUNNING")
    assert client.get_experiment_by_name("lam") is None
    experiment = client.create_experiment("lam", artifact_location=tmp_path.as_uri())
    first = parent_of(client, experiment, "cafe", "lam")
    assert parent_of(client, experiment, "cafe", "lam") == first != parent_of(client, experiment, "beef", "other")
    assert client.get_run(first).info.status == "FINISHED"
    keep_parent(uri, "lam", "cafe", "lam", {"mat_ds.trials": "3"}, status="RUNNING")
    run = client.get_run(first)
    assert (run.info.status, run.info.run_name, run.data.tags["mat_ds.trials"]) == ("RUNNING", "lam", "3")
    keep_parent(uri, "lam", "cafe", "lam", {}, status="KILLED")
    assert client.get_run(first).info.status == "KILLED" and len(client.search_runs([experiment])) == 2


def test_of_two_parent_runs_created_at_once_one_is_kept(tmp_path):
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("lam", artifact_location=tmp_path.as_uri())

    class Late:
        """A client that does not see the other's run until it has created one."""

        searched = False

        def __getattr__(self, name):
            return getattr(client, name)

        def search_runs(self, *given, **more):
            self.searched, before = True, self.searched
            return client.search_runs(*given, **more) if before else []

    first = parent_of(client, experiment, "cafe", "lam")
    assert parent_of(Late(), experiment, "cafe", "lam") == first
    assert [run.info.run_id for run in client.search_runs([experiment])] == [first]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://"])
def test_an_unreachable_server_takes_seconds_and_prints_one_line(uri, capsys, monkeypatch):
    monkeypatch.setattr(parent, "PATIENCE", 2.0)
    started = time.monotonic()
    keep_parent(uri, "lam", "cafe", "lam", {}, status="FINISHED")
    assert time.monotonic() - started < 10 and "could not be sent to MLflow" in capsys.readouterr().err
