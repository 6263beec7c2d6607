"""Claiming and pruning of trials, and the state that a sweep reports to MLflow, without training."""

import json
import threading
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from mat_ds.errors import ExitCode
from mat_ds.runs.options import RunConfig
from mat_ds.sweeps import study
from mat_ds.sweeps.pace import Pace
from mat_ds.sweeps.space import read_space
from mat_ds.sweeps.study import SharedStudy
from mat_ds.sweeps.training import claim, is_claimed
from mat_ds.sweeps.worker import Watch, Worker
from mat_ds.terminal.display import Display
from tests.support.sweeping import GRID, Sweep, plan

pytestmark = pytest.mark.usefixtures("at_once")


def shared(folder, space):
    Sweep(folder, space)
    return SharedStudy(folder / "a sweep", read_space(folder / "space.yaml"), {}, 0)


def test_a_trial_that_another_worker_just_finished_is_not_taken(tmp_path, monkeypatch):
    ours, theirs = shared(tmp_path, GRID), shared(tmp_path, GRID)
    first = theirs.take(None)

    def end():
        theirs.optuna.tell(first.trial, 0.5)
        first.claim.release()

    ending = threading.Thread(target=end)

    def late(folder):
        """The other worker finishes between our reading of the trials and our claim."""
        if folder == first.claim.folder:
            ending.start()
            ending.join(1)
        return claim(folder)

    monkeypatch.setattr(study, "claim", late)
    taken = ours.take(None)
    ending.join()
    assert taken.trial.number == 1 and not is_claimed(first.claim.folder) and is_claimed(taken.claim.folder)
    assert [trial.state for trial in ours.trials()] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING]
    taken.claim.release()


def test_a_trial_once_below_the_median_is_pruned_even_if_it_recovers(tmp_path):
    space = {**GRID, "pruner": "median", "startup_trials": 1, "warmup_evaluations": 0}
    trials = shared(tmp_path, space)
    good = trials.take(None)
    for index, score in enumerate([0.5, 0.6, 0.7], 1):
        good.trial.report(score, index)
    trials.optuna.tell(good.trial, 0.7)
    good.claim.release()
    taken = trials.take(None)
    stop_signals, said = SimpleNamespace(received=None), []
    pace = Pace(Display(False), "trial", 3, RunConfig(), lambda: 1)
    watch = Watch(Worker(trials, None, stop_signals, None, said.append, pace), taken)
    events = taken.claim.folder / "events.jsonl"

    def score(step, value):
        with events.open("a") as file:
            file.write(json.dumps({"event": "evaluation", "step": step, "score": value, "time": 0.0}) + "\n")

    score(1, 0.6)
    assert not watch()
    score(2, 0.4)  # its best so far, 0.6, equals the median
    score(3, 0.65)
    assert watch() and watch.pruned
    score(4, 0.9)
    assert watch() and watch.pruned and len(said) == 4
    taken.claim.release()


def statuses(monkeypatch, tmp_path):
    """The states of the sweep reported to MLflow, each with the trials claimed at that moment."""
    told, folder = [], tmp_path / "a sweep"
    (tmp_path / "mlflow.db").touch()

    def keep(uri, experiment, run_id, name, state, status):
        told.append((status, [lock.parent.name for lock in folder.glob("*/worker.lock")]))

    monkeypatch.setattr("mat_ds.sweeps.mirror.keep_parent", keep)
    return told


def test_mlflow_shows_that_a_sweep_is_running_and_how_it_ended(tmp_path, monkeypatch):
    told = statuses(monkeypatch, tmp_path)
    plan(monkeypatch, trial_0001={"stops_at": 2, "times": 1})
    sweep = Sweep(tmp_path, {**GRID, "options": {"method.lam": {"choices": [3.0, 1.0]}}})
    assert sweep.run() == ExitCode.REQUEUE
    assert told == [("RUNNING", ["trial-0000"]), ("RUNNING", ["trial-0001"]), ("KILLED", [])]
    other = claim(sweep.folder / "trial-0001")
    assert sweep.run() == ExitCode.OK and told[3:] == [("RUNNING", ["trial-0001"])]  # claimed by another worker
    other.release()
    assert sweep.run() == ExitCode.OK and told[4:] == [("RUNNING", ["trial-0001"]), ("FINISHED", [])]


def test_mlflow_shows_a_sweep_as_failed_after_wrong_input(tmp_path, monkeypatch):
    told = statuses(monkeypatch, tmp_path)
    plan(monkeypatch, trial_0000={"dies_at": 1, "code": 2})
    assert Sweep(tmp_path, GRID).run() == ExitCode.USER_ERROR and told[-1] == ("FAILED", [])
