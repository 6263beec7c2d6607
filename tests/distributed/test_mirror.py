"""The mirror of a run in MLflow: it follows the run without delaying it, and records how it ended, even by a kill."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from mat_ds.cli import main
from mat_ds.commands.train import main as train
from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from mat_ds.storage.rundir import RunDirectory
from tests.support.launch import ROOT, environment, free_port, run_cli
from tests.support.processes import Process
from tests.support.tracked import everything, found, history, live, make_run, mirrors

pytestmark = pytest.mark.dist

CANARY = "canary-b7e1"
SECRETS = {"MLFLOW_TRACKING_TOKEN": CANARY}
TINY = (
    "--ds_config",
    "ds_configs/zero2.json",
    "data.train_limit=64",
    "data.eval_limit=20",
    "train.batch_size=16",
    "train.max_steps=4",
    "method.delta_steps=1",
    "method.theta_steps=1",
    "train.telemetry_every=2",
)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


class Server:
    """An MLflow server on a free port."""

    def __init__(self, folder):
        self._folder, self._port, self._process = folder, free_port(), None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port), "--workers", "1",
                   "--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--artifacts-destination",
                   str(self._folder / "files")]  # fmt: skip
        with (self._folder / "server.log").open("a") as log:
            # Without its six processes for jobs, which are not needed here.
            env = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
            self._process = subprocess.Popen(command, env=env, cwd=self._folder, stdout=log, stderr=log, start_new_session=True)
        assert wait_for(self._listens, 120), (self._folder / "server.log").read_text()

    def _listens(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def hang(self):
        """Suspends the server: it accepts requests and answers them only after `wake`."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def wake(self):
        os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self):
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def lead():
    """Starts runs without training; at the end all remaining processes are killed."""
    lives = []

    def start(run, first=1):
        command = [sys.executable, "-m", "tests.workers.tracked_life", str(run.path), str(first)]
        lives.append(
            Process(
                command,
                cwd=ROOT,
                env=environment(**SECRETS),
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        )
        return lives[-1]

    yield start
    for life in lives:
        life.kill()
        life.communicate()


def hurry(run):
    """Raises the mirror's low priority to normal, so that a busy machine does not slow the test."""
    assert wait_for(lambda: [mirror for mirror in mirrors(run) if mirror.nice() > 0])
    with suppress(psutil.Error, OSError):  # this may need privileges
        for mirror in mirrors(run):
            mirror.nice(0)
            Path(f"/proc/{mirror.pid}/autogroup").write_text("0")


def carries_secret(*folders):
    """Files that contain the secret."""
    return [file for folder in folders for file in folder.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]


def test_a_run_whose_server_is_down_succeeds_and_is_delivered_when_the_server_is_back(server, tmp_path):
    run = tmp_path / "run"
    named = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": "grammar"}
    done = run_cli(*TINY, f"output_dir={run}", "tracking.tags.team=nlp", **named, **SECRETS)
    assert done.returncode == 0, done.stderr[-3000:]
    said = " ".join(done.stdout.split())
    assert f"at {server.uri} (MLFLOW_TRACKING_URI), experiment grammar (MLFLOW_EXPERIMENT_NAME)" in said
    start = json.loads((run / "environment.json").read_text())["starts"][0]
    assert start["tracking_decided_by"] == {"uri": "MLFLOW_TRACKING_URI", "experiment": "MLFLOW_EXPERIMENT_NAME"}
    records = read_events(run / "events.jsonl")
    assert "tracking: not everything of this run is in MLflow yet" in done.stderr
    assert f"mat-ds sync {run} --uri {server.uri}`" in done.stderr
    assert done.stderr.count("tracking:") == 1 and "Traceback" not in done.stderr
    assert records[-1]["event"] == "end" and json.loads((run / "results.json").read_text())["steps"] == 4
    # Each reason is printed once, whatever the number of attempts.
    reasons = [line.partition("not delivered")[2] for line in (run / "tracking.log").read_text().splitlines()]
    assert all(reasons) and 1 < len(reasons) == len(set(reasons)) <= 3 and "given up" in reasons[-1]

    server.start()
    for news in (f"{len(records)} events", "nothing new"):
        synced = run_cli("sync", run, "--uri", server.uri, module="mat_ds.cli", **SECRETS)
        assert synced.returncode == 0 and news in synced.stdout, synced.stderr
    client = MlflowClient(server.uri)
    info, params, tags, files, metrics = everything(client, RunDirectory(run))
    assert client.get_experiment(info["experiment_id"]).name == params["tracking.experiment"] == "grammar"
    assert (info["status"], tags["team"], params["method.theta_steps"]) == ("FINISHED", "nlp", "1")
    logged = [(r["step"], round(1000 * r["time"]), r["loss"]) for r in records if r["event"] == "step"]
    assert metrics["train/loss"] == logged and len(logged) == 4
    assert info["start_time"] == round(1000 * records[0]["time"]) and info["end_time"] == round(1000 * records[-1]["time"])
    assert {
        "telemetry/cosine",
        "eval/matthews_correlation",
        "system/rank_0_memory_usage_megabytes",
        "results/last/score",
    } < set(metrics)
    assert {"config.yaml", "deepspeed.json", "environment.json", "results.json"} <= set(files)
    assert not carries_secret(tmp_path, server._folder)
    assert CANARY not in done.stdout + done.stderr + synced.stdout + synced.stderr


def test_a_run_is_followed_through_a_server_that_hangs_and_a_rank_that_is_killed(server, lead, tmp_path):
    server.start() if not server._listens() else None
    client, run = MlflowClient(server.uri), make_run(tmp_path / "run", uri=server.uri)
    life = lead(run)
    hurry(run)

    def losses():
        try:
            return [step for step, _, _ in history(client, found(client, run), "train/loss")]
        except ValueError:  # MLflow does not know the run yet
            return []

    life.stdin.write("go\n" * 3)
    assert wait_for(lambda: losses() == [1, 2, 3]) and found(client, run).info.status == "RUNNING"
    server.hang()
    life.stdin.write("go\n" * 2)
    assert wait_for(lambda: "not delivered" in run.tracking_log.read_text())
    server.wake()
    assert wait_for(lambda: losses() == [1, 2, 3, 4, 5], 90)

    (mirror,) = mirrors(run)
    assert "MASTER_PORT" not in mirror.environ() and os.getsid(mirror.pid) != os.getsid(life.pid)
    mirror.send_signal(signal.SIGTERM)  # a signal meant for the ranks
    life.kill()  # as the kernel does when memory is short; it is a zombie until `wait`
    assert wait_for(lambda: found(client, run).info.status == "FAILED")
    assert psutil.wait_procs([mirror], 30)[1] == []

    for first, end, status in ((6, "stop", "KILLED"), (7, "end", "FINISHED")):
        life = lead(run, first)
        life.stdin.write(f"go\n{end}\n")
        assert life.wait(60) == 0 and life.stderr.read() == ""
        assert found(client, run).info.status == status and not mirrors(run)
    assert losses() == [1, 2, 3, 4, 5, 6, 7]
    assert not carries_secret(tmp_path)


def test_processes_that_start_at_once_create_one_database(tmp_path):
    runs = [make_run(tmp_path / name) for name in "abc"]
    for run in runs:
        live(run, 1, 2)
    command = [sys.executable, "-m", "mat_ds.cli", "sync"]
    processes = [Process([*command, str(run.path)], cwd=ROOT, env=environment()) for run in runs]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert {found(client, run).info.status for run in runs} == {"FINISHED"}
    assert main(["sync", *(str(run.path) for run in runs)]) == ExitCode.OK


@pytest.mark.parametrize(
    "uri, why",
    [
        ("http://user:canary-b7e1@127.0.0.1:9", "contains credentials"),
        ("file:///tmp/mlruns", "folder of files"),
        ("ftp://there", "not a supported scheme"),
    ],
)
def test_an_invalid_address_or_one_with_a_secret_is_refused_before_training(uri, why, tmp_path, capfd):
    assert train([*TINY, f"output_dir={tmp_path}/run", f"tracking.uri={uri}"]) == ExitCode.USER_ERROR
    said = capfd.readouterr()
    assert why in said.err and "tracking.uri" in said.err and CANARY not in said.err + said.out
    assert not (tmp_path / "run").exists()
