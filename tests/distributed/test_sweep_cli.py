"""A search and several seeds through the command line: real trainings, one of which is told to stop."""

import json
import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from mat_ds.errors import ExitCode
from mat_ds.runs.load import load_run_config
from mat_ds.storage.events import read_events
from tests.support.launch import ROOT, environment

# The commands of `docs/tracking.md`, also tested, cover an undisturbed search and several seeds.
pytestmark = [pytest.mark.dist, pytest.mark.slow]

SMALL = (
    "data.train_limit=256",
    "data.eval_limit=50",
    "method.delta_steps=1",
    "train.max_steps=6",
    "train.eval_per_epoch=2",
    "train.telemetry_every=0",
)


def command(name, *arguments):
    return [sys.executable, "-m", "mat_ds.cli", name, *map(str, arguments)]


def run(name, *arguments):
    return subprocess.run(command(name, *arguments), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1500)


def test_a_search_told_to_stop_continues_its_trial_and_ends_with_a_recipe(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "options: {'method.lam': {choices: [0.5, 2.0]}, 'method.theta_steps': {choices: [2]}}\nsampler: grid\nobjective: last\n"
    )
    search = (
        "--space",
        tmp_path / "space.yaml",
        "--launcher",
        "deepspeed --quiet --num_gpus 2",
        *SMALL,
        f"output_dir={tmp_path}/s",
    )
    events = tmp_path / "s" / "trial-0000" / "events.jsonl"
    worker = subprocess.Popen(command("sweep", *search), cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 900
    while not any(record["event"] == "step" for record in read_events(events)):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == ExitCode.REQUEUE and (tmp_path / "s" / "trial-0000" / "interrupted.json").exists()

    done = run("sweep", *search)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    found = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [trial["state"] for trial in found["trials"]] == ["complete", "complete"]
    for trial in found["trials"]:
        results = json.loads((tmp_path / "s" / trial["run"] / "results.json").read_text())
        assert (results["world_size"], results["last"]["score"]) == (2, trial["value"])
        steps = [r["step"] for r in read_events(tmp_path / "s" / trial["run"] / "events.jsonl") if r["event"] == "step"]
        assert steps == list(range(1, 7)) and len(trial["evaluations"]) == 3
    starts = json.loads((tmp_path / "s" / "trial-0000" / "environment.json").read_text())["starts"]
    assert len(starts) == 2
    best = load_run_config(tmp_path / "s" / "best.yaml", [])
    assert best.method.lam == found["trials"][found["best"]]["options"]["method.lam"] and best.train.max_steps == 6

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    tracked = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    (above,) = (run for run in tracked if "mlflow.parentRunId" not in run.data.tags)
    trials = {run.info.run_name: run for run in tracked if run is not above}
    assert above.data.tags["mat_ds.best"] == found["trials"][found["best"]]["run"]
    assert sorted(trials) == ["trial-0000", "trial-0001"]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {above.info.run_id}
    assert {run.info.status for run in tracked} == {"FINISHED"}


def test_seeds_are_trained_one_after_another_and_differ(tmp_path):
    done = run("seeds", "--seeds", "2", *SMALL, f"output_dir={tmp_path}")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    found = json.loads((tmp_path / "seeds.json").read_text())
    assert [run["seed"] for run in found["runs"]] == [0, 1] and set(found["summary"]) == {"last", "best", "median_last_half"}
    weights = [(tmp_path / f"seed-{seed}" / "model" / "model.safetensors").read_bytes() for seed in range(2)]
    assert weights[0] != weights[1] and "std" in done.stdout
