"""Sweeps with failing trials and workers: real processes, with a trainer that takes a second."""

import csv
import json
import os
import signal
import threading

import pytest

from mat_ds.errors import ExitCode
from mat_ds.runs.load import load_run_config
from mat_ds.storage.events import read_events
from mat_ds.storage.lock import holder_of
from tests.support.launch import ROOT
from tests.support.locking import elsewhere
from tests.support.sweeping import GRID, Sweep, plan, until

pytestmark = pytest.mark.usefixtures("at_once")


def test_a_grid_is_tried_once_and_the_best_trial_becomes_a_recipe(tmp_path, capsys):
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == ExitCode.OK
    found = json.loads((sweep.folder / "sweep.json").read_text())
    assert [trial["options"]["method.lam"] for trial in found["trials"]] == [3.0, 1.0, 5.0] and found["best"] == 0
    assert [trial["value"] for trial in found["trials"]] == pytest.approx([5 / 6, 4 / 6, 4 / 6])
    assert len(found["trials"][0]["evaluations"]) == 6
    rows = list(csv.DictReader((sweep.folder / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["complete"] * 3 and float(rows[0]["best"]) == 1.0
    recipe = load_run_config(sweep.folder / "best.yaml", [])
    assert recipe == load_run_config(ROOT / "launch" / "recipes" / "demo.yaml", ["method.lam=3.0"])
    printed = capsys.readouterr().out
    assert "best.yaml" in printed and printed.count("is done") == 3
    assert sweep.run("--json") == ExitCode.OK and json.loads(capsys.readouterr().out) == found
    assert sweep.run("--quiet") == ExitCode.OK and [sweep.lives(number) for number in range(3)] == [[0]] * 3


def test_a_sweep_can_be_continued_with_more_trials(tmp_path):
    space = {
        "options": {
            "method.lam": {"low": 0.1, "high": 5.0, "log": True},
            "method.delta_steps, method.theta_steps": {"low": 1, "high": 4},
        }
    }
    sweep = Sweep(tmp_path, space)
    assert sweep.run("--trials", "2") == ExitCode.OK
    before = [trial.params for trial in sweep.trials()]
    assert sweep.run("--trials", "3") == ExitCode.OK
    after = [trial.params for trial in sweep.trials()]
    assert (
        after[:2] == before
        and len(after) == 3
        and all(isinstance(x["method.delta_steps, method.theta_steps"], int) for x in after)
    )
    again = Sweep(tmp_path / "again", space) if (tmp_path / "again").mkdir() is None else None
    assert again.run("--trials", "3") == ExitCode.OK
    assert [trial.params for trial in again.trials()] == after  # keyed, and independent of the worker


def test_a_trial_below_the_median_is_stopped_and_keeps_its_scores(tmp_path, monkeypatch):
    plan(monkeypatch, trial_0001={"waits_at": 3})
    space = {**GRID, "options": {"method.lam": {"choices": [3.0, 0.0]}}, "pruner": "median", "startup_trials": 1}
    sweep = Sweep(tmp_path, space)
    assert sweep.run() == ExitCode.OK and sweep.states() == ["COMPLETE", "PRUNED"]
    reported = sweep.trials()[1].intermediate_values
    assert 1 < len(reported) <= 3 and not (sweep.folder / "trial-0001" / "results.json").exists()
    assert (sweep.folder / "trial-0001" / "interrupted.json").exists()
    values = [trial["value"] for trial in json.loads((sweep.folder / "sweep.json").read_text())["trials"]]
    assert values == [pytest.approx(5 / 6), None]  # the pruned trial has no value of the objective
    assert (sweep.folder / "trial-0001" / "checkpoints" / "step.json").exists()
    assert sweep.run() == ExitCode.OK and sweep.lives(1) == [0]


def test_a_trial_that_dies_is_continued_while_it_progresses_and_otherwise_failed_with_the_reason(tmp_path, monkeypatch, capsys):
    plan(monkeypatch, trial_0000={"dies_at": 3, "times": 1}, trial_0001={"dies_at": 3}, trial_0002={"dies_at": 2, "code": 3})
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run("--json") == ExitCode.OK and sweep.states() == ["COMPLETE", "FAIL", "FAIL"]
    assert [sweep.lives(number) for number in range(3)] == [[0, 2], [0, 2], [0]]  # a diverged trial is not continued
    assert sweep.steps(0) == [1, 2, 3, 4, 5, 6]
    reasons = [trial["reason"] for trial in json.loads((sweep.folder / "sweep.json").read_text())["trials"]]
    assert "trial-0000: died at step 2, and is continued" in capsys.readouterr().err  # not on stdout, because of --json
    assert reasons[1] == "exit code -9: this is why it died" and reasons[2].startswith("exit code 3")


@pytest.mark.parametrize(("code", "expected"), [(2, ExitCode.USER_ERROR), (1, ExitCode.FAILED)])
def test_a_sweep_without_a_successful_trial_fails(tmp_path, monkeypatch, code, expected):
    always = {"dies_at": 1, "code": code}
    plan(monkeypatch, trial_0000=always, trial_0001=always, trial_0002=always)
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == expected
    assert sweep.states() == (["FAIL", "WAITING", "WAITING"] if code == 2 else ["FAIL"] * 3)


def test_a_worker_told_to_stop_saves_its_trial_and_the_next_continues_it(tmp_path, monkeypatch):
    plan(monkeypatch, trial_0000={"waits_at": 2, "times": 1})
    sweep = Sweep(tmp_path, GRID)

    def tell():
        until(lambda: read_events(sweep.folder / "trial-0000" / "events.jsonl"))
        os.kill(os.getpid(), signal.SIGTERM)

    telling = threading.Thread(target=tell)
    telling.start()
    assert sweep.run() == ExitCode.REQUEUE and sweep.states() == ["RUNNING", "WAITING", "WAITING"]
    telling.join()
    assert sweep.run() == ExitCode.OK and sweep.states() == ["COMPLETE"] * 3
    assert len(sweep.lives(0)) == 2 and sweep.steps(0) == [1, 2, 3, 4, 5, 6] == sorted(sweep.trials()[0].intermediate_values)


def test_a_worker_whose_ranks_were_told_to_stop_stops_too(tmp_path, monkeypatch):
    plan(monkeypatch, trial_0001={"stops_at": 2, "times": 1})
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == ExitCode.REQUEUE and sweep.states() == ["COMPLETE", "RUNNING", "WAITING"]
    assert sweep.run() == ExitCode.OK and sweep.steps(1) == [1, 2, 3, 4, 5, 6]


def test_the_trial_of_a_dead_worker_is_taken_over_with_its_training(tmp_path, monkeypatch):
    plan(monkeypatch, trial_0000={"waits_at": 2, "times": 1})
    sweep = Sweep(tmp_path, GRID)
    events = sweep.folder / "trial-0000" / "events.jsonl"
    worker = sweep.start()
    until(lambda: len(read_events(events)) > 1)
    worker.kill()
    worker.wait()
    # Its training continues to run and holds the run directory.
    assert sweep.run() == ExitCode.OK and sweep.states() == ["COMPLETE"] * 3
    assert len(sweep.lives(0)) == 2 and sweep.steps(0) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["worker.lock", "run.lock"])
def test_the_trial_of_a_worker_on_a_lost_machine_is_taken_over_after_its_lease(name, tmp_path, monkeypatch, short_leases):
    plan(monkeypatch, trial_0000={"stops_at": 2, "times": 1})
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == ExitCode.REQUEUE and sweep.states() == ["RUNNING", "WAITING", "WAITING"]
    elsewhere(sweep.folder / "trial-0000", lock=name)
    assert sweep.run() == ExitCode.OK and sweep.states() == ["COMPLETE"] * 3
    assert len(sweep.lives(0)) == 2 and sweep.steps(0) == [1, 2, 3, 4, 5, 6]


def test_a_trial_that_kills_its_workers_is_given_up(tmp_path, monkeypatch):
    plan(monkeypatch, trial_0000={"waits_at": 1})
    sweep = Sweep(tmp_path, GRID)
    for life in (1, 2):
        worker = sweep.start()
        # A worker first holds the trial's lock itself; killed at that time, it would not have started the trial.
        until(lambda life=life: len(sweep.lives(0)) == life)
        trainer = holder_of(sweep.folder / "trial-0000").owner.pid
        worker.kill()
        os.kill(trainer, signal.SIGKILL)
        worker.wait()
        until(lambda: holder_of(sweep.folder / "trial-0000") is None)  # a kill takes a moment
    assert sweep.run() == ExitCode.OK and sweep.states() == ["FAIL", "COMPLETE", "COMPLETE"]


def test_parallel_workers_share_the_trials(tmp_path):
    sweep = Sweep(tmp_path, {"options": {"method.lam": {"low": 1.0, "high": 5.0}}, "pruner": "none"})
    workers = [sweep.start("--trials", "7") for _ in range(3)]
    assert [worker.wait(300) for worker in workers] == [0, 0, 0]
    assert sweep.states() == ["COMPLETE"] * 7 and [sweep.lives(number) for number in range(7)] == [[0]] * 7
    assert len({trial.params["method.lam"] for trial in sweep.trials()}) == 7
    assert len(json.loads((sweep.folder / "sweep.json").read_text())["trials"]) == 7
    assert not list(sweep.folder.glob("**/*.lock"))


def test_another_space_or_other_options_in_the_folder_of_a_sweep_are_refused_by_name(tmp_path, capsys):
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == ExitCode.OK
    assert sweep.run("train.epochs=7.0") == ExitCode.USER_ERROR
    assert "options.train.epochs = 7.0" in capsys.readouterr().err
    sweep.write({**GRID, "options": {"method.lam": {"choices": [3.0, 2.0]}}})
    assert sweep.run() == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "space.options.method.lam.choices = [3.0, 2.0]" in said and "[3.0, 1.0, 5.0]" in said and "1 problem" in said


def test_another_run_in_a_trials_folder_is_not_taken_for_the_trial(tmp_path, capsys):
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run() == ExitCode.OK
    (sweep.folder / "journal.log").unlink()
    sweep.write({**GRID, "options": {"method.lam": {"choices": [2.0, 1.0]}}})
    assert sweep.run() == ExitCode.USER_ERROR and sweep.states() == ["RUNNING", "WAITING"]
    said = capsys.readouterr().err
    assert "method.lam = 2.0" in said and f"{sweep.folder / 'trial-0000'} has 3.0" in said and "1 problem" in said
    assert not list(sweep.folder.glob("**/*.lock"))
    # A run with the trial's options is, as after the death of a worker that could not report its end.
    sweep.write({**GRID, "options": {"method.lam": {"choices": [3.0, 1.0]}}})
    (sweep.folder / "journal.log").unlink()
    assert sweep.run() == ExitCode.OK and sweep.states() == ["COMPLETE"] * 2 and sweep.lives(0) == sweep.lives(1) == [0]


def test_a_torn_line_in_the_journal_loses_only_itself(tmp_path):
    sweep = Sweep(tmp_path, {"options": {"method.lam": {"low": 1.0, "high": 5.0}}})
    assert sweep.run("--trials", "1") == ExitCode.OK
    with (sweep.folder / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "wor')
    assert sweep.run("--trials", "2") == ExitCode.OK and sweep.states() == ["COMPLETE"] * 2


@pytest.mark.parametrize("torn", [b"\xff\xfe\n", b"{}\n[]\n", b'{"op_code": 0, "study_name\n{}\n', b"binary \0"])
def test_a_damaged_journal_is_an_error_and_not_a_new_sweep(tmp_path, torn, capsys):
    sweep = Sweep(tmp_path, GRID)
    (sweep.folder / "trial-0000").mkdir(parents=True)
    (sweep.folder / "trial-0000" / "config.yaml").touch()
    (sweep.folder / "journal.log").write_bytes(torn)
    assert sweep.run() == ExitCode.USER_ERROR and "journal.log" in capsys.readouterr().err
    assert (sweep.folder / "journal.log").read_bytes() == torn


def test_a_worker_without_a_reader_continues(tmp_path):
    sweep = Sweep(tmp_path, GRID)
    reading, writing = os.pipe()
    worker = sweep.start(out=writing)
    os.close(writing)
    os.close(reading)
    assert worker.wait(300) == ExitCode.OK and sweep.states() == ["COMPLETE"] * 3
