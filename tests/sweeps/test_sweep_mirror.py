"""The trials of a sweep in MLflow: children of one run, which shows the state of the sweep."""

from mlflow import MlflowClient

from mat_ds.tracking.parent import keep_parent
from mat_ds.tracking.replica import Replica
from tests.support.tracked import hold, live, make_run


def test_trials_are_shown_under_the_run_of_their_sweep(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for number in range(2):
        tags = {"mat_ds.sweep": "lam", "mat_ds.trial": str(number), "mat_ds.parent": "cafe"}
        run = make_run(tmp_path / "lam" / f"trial-{number}", uri, experiment="lam", tags=tags)
        live(run, 1, 4)
        Replica(run, uri).deliver()
    keep_parent(uri, "lam", "cafe", "lam", {"mat_ds.trials": "2"}, status="FINISHED")
    client = MlflowClient(tracking_uri=uri)
    runs = {run.info.run_name: run for run in client.search_runs([client.get_experiment_by_name("lam").experiment_id])}
    assert set(runs) == {"lam", "trial-0", "trial-1"} and runs["lam"].data.tags["mat_ds.trials"] == "2"
    above = [runs[f"trial-{number}"].data.tags["mlflow.parentRunId"] for number in range(2)]
    assert above == [runs["lam"].info.run_id] * 2


def test_the_run_of_a_sweep_is_running_from_its_first_trial_on(tmp_path):
    uri, elsewhere = (f"sqlite:///{tmp_path}/{name}.db" for name in ("mlflow", "elsewhere"))
    run = make_run(tmp_path / "lam" / "trial-0", uri, experiment="lam", tags={"mat_ds.sweep": "lam", "mat_ds.parent": "cafe"})
    live(run, 1, 2, status=None)
    hold(run)
    statuses = []
    for each in (uri, elsewhere):
        Replica(run, each).deliver()
        client = MlflowClient(tracking_uri=each)
        runs = client.search_runs([client.get_experiment_by_name("lam").experiment_id])
        statuses.append({run.info.run_name: run.info.status for run in runs})
    assert [found["lam"] for found in statuses] == ["RUNNING", "FINISHED"]
    assert {found["trial-0"] for found in statuses} == {"RUNNING"}
