"""`mat-ds seeds`: every seed is trained once by one of the workers, and the statistics are those of the runs."""

import json
import signal
import statistics
import subprocess
import sys

import pytest

from mat_ds.commands.seeds import main
from mat_ds.errors import ExitCode
from mat_ds.storage.disk import write_json
from mat_ds.storage.events import EventLog, read_events
from mat_ds.storage.lock import RunLock
from mat_ds.storage.rundir import RunDirectory
from mat_ds.sweeps.training import WORKER_LOCK
from tests.support.fake_trainer import STEPS, score_at
from tests.support.launch import ROOT, environment
from tests.support.locking import elsewhere
from tests.support.processes import Process
from tests.support.sweeping import FAKE, plan, until

pytestmark = pytest.mark.usefixtures("at_once")


def arguments(folder, *more):
    return ["--launcher", FAKE, f"output_dir={folder}", *more]


def lives(folder, seed):
    return [int(line) for line in (folder / f"seed-{seed}" / "lives").read_text().split()]


def start(folder, *more):
    command = [sys.executable, "-m", "mat_ds.cli", "seeds", *arguments(folder, *more)]
    return Process(command, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL)


def test_the_table_has_last_best_and_median_of_every_seed_and_their_spread(tmp_path, capsys):
    assert main(arguments(tmp_path, "--seeds", "3")) == ExitCode.OK
    found = json.loads((tmp_path / "seeds.json").read_text())
    last = [score_at(seed, STEPS) for seed in range(3)]
    assert [run["last"] for run in found["runs"]] == [run["best"] for run in found["runs"]] == pytest.approx(last)
    spread = {"mean": statistics.mean(last), "std": statistics.stdev(last), "min": min(last), "max": max(last)}
    assert found["summary"]["last"] == pytest.approx(spread)
    assert found["summary"]["median_last_half"]["max"] == pytest.approx(score_at(2, STEPS - 1))
    table = capsys.readouterr().out
    assert all(word in table for word in ("median_last_half", "mean", "std", "0.8"))
    assert main(arguments(tmp_path, "--seeds", "3", "--json")) == ExitCode.OK
    assert json.loads(capsys.readouterr().out) == found


def test_finished_seeds_are_not_trained_again_and_a_stopped_one_continues(tmp_path, monkeypatch):
    plan(monkeypatch, seed_1={"stops_at": 2, "times": 1})
    assert main(arguments(tmp_path, "--seeds", "2")) == ExitCode.REQUEUE
    assert [run["seed"] for run in json.loads((tmp_path / "seeds.json").read_text())["runs"]] == [0]
    assert main(arguments(tmp_path, "--seeds", "3")) == ExitCode.OK
    assert [lives(tmp_path, seed) for seed in range(3)] == [[0], [0, 2], [0]]


def completed(folder, seed):
    """What a report reads of a run, and the trainer of these tests does not write."""
    run = RunDirectory(folder / f"seed-{seed}")
    write_json(run.environment, {})
    write_json(run.results, {**json.loads(run.results.read_text()), "steps": STEPS, "dev_sha256": "e" * 8})
    EventLog(run.events, STEPS).log({"event": "end", "step": STEPS, "status": "FINISHED"})


def test_seeds_are_compared_with_other_runs_pair_by_pair_and_two_of_them_have_no_interval(tmp_path, capsys):
    own, other = tmp_path / "own", tmp_path / "other"
    assert main(arguments(own, "--seeds", "2", "--against", str(other))) == ExitCode.USER_ERROR and not own.exists()
    assert "there is no such folder" in capsys.readouterr().err
    assert main(arguments(other, "--seeds", "6", "method.lam=3.0")) == ExitCode.OK
    for seeds in (2, 6):
        assert main(arguments(own, "--seeds", str(seeds))) == ExitCode.OK
        for folder in (own, other):
            for seed in range(seeds):
                completed(folder, seed)
        capsys.readouterr()
        assert main(arguments(own, "--seeds", str(seeds), "--against", str(other), "--margin", "50")) == ExitCode.OK
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "demo: " in line)
        (found,) = json.loads((own / "seeds.json").read_text())["comparisons"]
        differences = [100 * (score_at(seed, STEPS) - score_at(3, STEPS)) for seed in range(seeds)]
        assert found["seeds"] == list(range(seeds)) and found["differences"] == pytest.approx(differences)
        if seeds == 2:
            assert "±" not in line.split(": too few")[0] and "-30.00, -20.00, 2 seeds: too few seeds" in line
            assert found["low"] is found["p"] is found["equivalence"] is None
        else:
            # Of six differences -30, -20, -10, 0, -10 and -20, 4 of the 64 choices of signs have a mean as far from 0.
            assert found["p"] == pytest.approx(4 / 64) and found["equivalence"] < 0.05 and "within 50" in line


def test_a_failed_seed_makes_the_command_fail_and_keeps_the_results_of_the_others(tmp_path, monkeypatch):
    plan(monkeypatch, seed_0={"dies_at": 2, "code": 3}, seed_1={"dies_at": 4, "times": 1})
    assert main(arguments(tmp_path, "--seeds", "2")) == ExitCode.FAILED
    found = json.loads((tmp_path / "seeds.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [1] and found["summary"]["last"]["std"] is None
    assert lives(tmp_path, 1) == [0, 3]


def test_parallel_workers_share_the_seeds_and_one_told_to_stop_leaves_its_seed_to_others(tmp_path, monkeypatch):
    plan(monkeypatch, seed_0={"waits_at": 2, "times": 1})
    first = start(tmp_path, "--seeds", "3")
    until(lambda: read_events(tmp_path / "seed-0" / "events.jsonl"))
    second = start(tmp_path, "--seeds", "3")
    assert second.wait(300) == ExitCode.OK and [lives(tmp_path, seed) for seed in range(3)] == [[0]] * 3
    assert [run["seed"] for run in json.loads((tmp_path / "seeds.json").read_text())["runs"]] == [1, 2]
    first.send_signal(signal.SIGTERM)
    assert first.wait(60) == ExitCode.REQUEUE
    assert main(arguments(tmp_path, "--seeds", "3")) == ExitCode.OK
    assert [lives(tmp_path, seed) for seed in range(3)] == [[0, 2], [0], [0]]
    assert len(json.loads((tmp_path / "seeds.json").read_text())["runs"]) == 3


def test_running_seeds_and_those_of_other_workers_do_not_count_as_finished(tmp_path, monkeypatch, capsys):
    assert main(arguments(tmp_path, "--seeds", "1")) == ExitCode.OK
    other = RunLock(WORKER_LOCK)
    other.acquire(tmp_path / "seed-1")
    assert main(arguments(tmp_path, "--seeds", "2")) == ExitCode.OK
    said = capsys.readouterr().out
    assert "seed-1 is being trained by another" in said and "1 of 2 seeds finished; trained by other processes: seed-1" in said
    other.release()
    plan(monkeypatch, seed_1={"dies_at": 3, "times": 1})
    assert main(arguments(tmp_path, "--seeds", "2", "--json")) == ExitCode.OK
    said = capsys.readouterr()
    assert len(json.loads(said.out)["runs"]) == 2 and "seed-1: died at step 2, and is continued" in said.err
    assert main(arguments(tmp_path, "--seeds", "2", "--quiet")) == ExitCode.OK
    assert "2 of 2 seeds finished" in capsys.readouterr().out


def test_the_seed_of_a_job_on_a_lost_machine_is_taken_over_after_its_lease(tmp_path, short_leases):
    elsewhere(tmp_path / "seed-1", lock=WORKER_LOCK)
    assert main(arguments(tmp_path, "--seeds", "2")) == ExitCode.OK
    assert [lives(tmp_path, seed) for seed in range(2)] == [[0], [0]]


def test_another_model_precision_or_data_make_another_experiment(tmp_path, capsys):
    assert main(arguments(tmp_path, "--seeds", "1")) == ExitCode.OK
    (tmp_path / "bf16.json").write_text('{"zero_optimization": {"stage": 2}, "bf16": {"enabled": true}}')
    others = {
        "options.model.name = 'tiny-bert'": ["model.name=tiny-bert"],
        "options.data.path = 'data'": ["data.path=data"],
        "ds_config.bf16": ["--ds_config", str(tmp_path / "bf16.json")],
    }
    for said, given in others.items():
        assert main(arguments(tmp_path, "--seeds", "2", *given)) == ExitCode.USER_ERROR
        found = capsys.readouterr().err
        assert said in found and f"what was trained in {tmp_path} has" in found and "another output_dir" in found
    # A run that this command did not start is compared option by option.
    (tmp_path / "definition.json").unlink()
    assert main(arguments(tmp_path, "--seeds", "2", "model.name=tiny-bert")) == ExitCode.USER_ERROR
    assert "model.name = 'tiny-bert'" in capsys.readouterr().err and not (tmp_path / "seed-1").exists()
    assert main(arguments(tmp_path, "--seeds", "1")) == ExitCode.OK and lives(tmp_path, 0) == [0]


@pytest.mark.parametrize("torn", [b"", b"[]", b"{", b"\xff", b'{"options": {}, "options": {"seed": 1}}'])
def test_a_torn_definition_is_an_error_and_is_kept(tmp_path, torn, capsys):
    (tmp_path / "definition.json").write_bytes(torn)
    assert main(arguments(tmp_path, "--seeds", "1")) == ExitCode.USER_ERROR
    assert "definition.json" in capsys.readouterr().err and (tmp_path / "definition.json").read_bytes() == torn
    assert not (tmp_path / "seed-0").exists()


def test_runs_with_other_options_are_not_seeds_of_the_experiment(tmp_path, capsys):
    assert main(arguments(tmp_path, "--seeds", "1")) == ExitCode.OK
    assert main(arguments(tmp_path, "--seeds", "2", "train.epochs=9")) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "train.epochs = 9.0" in said and "1 problem" in said and not (tmp_path / "seed-1").exists()
    assert main(arguments(tmp_path, "seed=3")) == ExitCode.USER_ERROR
    assert "seed = '3'" in capsys.readouterr().err
