"""A real MLflow server for tests, and what `mat-ds predict` answers, with which its answers are compared."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.tasks.registry import TASKS
from tests.support.heads import texts_of, write_rows
from tests.support.launch import environment, free_port

MLFLOW = str(Path(sys.executable).with_name("mlflow"))


def on_path(**env):
    """Variables of a process in an activated environment, where programs are found by name."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # A server's six processes for jobs take a minute to start and are not needed here.
    return environment(PATH=path, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **env)


def start(*arguments, port, health, log, **env):
    """Starts a server in a new process group, and waits until it answers."""
    command = [MLFLOW, *map(str, arguments), "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:  # a full pipe would block it
        process = subprocess.Popen(command, env=on_path(**env), start_new_session=True, stdout=out, stderr=out)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/{health}", timeout=5):
                return process
        except (URLError, OSError):
            time.sleep(0.3)
    stop(process)
    raise AssertionError(log.read_text()[-3000:])


def stop(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server with an SQLite store and an artifact folder."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", folder / "artifacts")
    process = start("server", *store, "--workers", "1", port=port, health="health", log=folder / "log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    stop(process)


def answers_of(model, task, folder):
    """The predictions of `mat-ds predict`."""
    file, out = write_rows(folder / f"{task}.jsonl", TASKS[task], texts_of(task)), folder / f"{len([*folder.iterdir()])}.jsonl"
    assert main(["predict", str(model), str(file), "--out", str(out)]) == ExitCode.OK
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("index", *TASKS[task].text)} for row in answers]
