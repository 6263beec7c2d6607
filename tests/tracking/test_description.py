"""What MLflow shows of a run beside its numbers, and what becomes of runs that an earlier version delivered."""

import shutil

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from mat_ds.tracking.content import DELIVERED
from mat_ds.tracking.history import runs_of
from tests.support.tracked import found, history, live, make_run


def sync(run):
    return main(["sync", str(run.path)])


def test_a_run_has_its_data_and_an_experiment_of_training_runs_and_keeps_a_users_description(runs, client):
    run = make_run(runs / "described", experiment="described")
    live(run, 1, 2, status=None)
    assert sync(run) == ExitCode.OK
    there = found(client, run)
    assert client.get_experiment(there.info.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"
    (data,) = there.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.tags[0].value) == ("demo", "da7a", "training")
    assert there.data.tags["mlflow.note.content"] == "A run on demo, 2 x cpu, fp16."
    live(run, 3, 4)
    assert sync(run) == ExitCode.OK and found(client, run).data.tags["mlflow.note.content"].endswith("last half 0.5000.")
    client.set_tag(there.info.run_id, "mlflow.note.content", "my own words")
    live(run, 5, 6)
    assert sync(run) == ExitCode.OK and found(client, run).data.tags["mlflow.note.content"] == "my own words"


def test_a_run_that_an_earlier_version_delivered_is_delivered_again_under_the_names_of_today(runs, client):
    run = make_run(runs / "renamed", experiment="renamed")
    live(run, 1, 2)
    assert sync(run) == ExitCode.OK
    there = found(client, run).info.run_id
    client.delete_tag(there, DELIVERED)  # it had another name
    client.log_metric(there, "loss", 0.5, timestamp=round(1000 * read_events(run.events)[2]["time"]), step=2)
    live(run, 3, 3)
    assert sync(run) == ExitCode.OK
    assert [step for step, _, _ in history(client, found(client, run), "train/loss")] == [1, 2, 3]
    shutil.rmtree(run.path)
    (tracked,) = runs_of(f"sqlite:///{runs}/mlflow.db", "renamed")
    assert [(r["step"], r["loss"]) for r in tracked.records if r["event"] == "step"] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
