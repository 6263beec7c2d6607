"""Two jobs on two machines with one run directory: whatever stops or disconnects them, only one of them writes."""

import json
import signal
import sys
import time
from contextlib import suppress

import psutil
import pytest

from mat_ds.errors import ExitCode
from mat_ds.storage.lock import holder_of
from tests.cluster.hasty import LEASE_SECONDS
from tests.cluster.hosts import wait_until
from tests.cluster.runs import OPTIONS

pytestmark = [pytest.mark.cluster, pytest.mark.dist]

# More steps than the test trains.
MORE = ("method.theta_steps=10", "train.max_steps=2000", "train.save_every=3", "train.keep_last=1000", "train.resume=auto")


@pytest.fixture
def start(network, run):
    """Starts a job on a host, with the variables of SLURM's job 7; all jobs are killed at the end of the test."""
    started = []

    def start(host, log, **env):
        command = (sys.executable, "-m", "tests.cluster.hasty", *OPTIONS, *MORE, f"output_dir={run.path}")
        started.append(host.start(*command, log=log, **{"SLURM_JOB_ID": "7", **env}))
        return started[-1]

    yield start
    for job in started:
        with suppress(psutil.Error):
            for process in psutil.Process(job.carrier.pid).children(recursive=True):
                process.kill()
        job.carrier.kill()
        job.carrier.wait(60)
    for node in network.nodes.values():
        network.head.ip("link", "set", node.port, "up")


def authors(run):
    """The writer of each checkpoint, by step."""
    states = sorted(run.path.glob("checkpoints/step-*/state.json"))
    return {int(path.parent.name.removeprefix("step-")): json.loads(path.read_text())["writer"] for path in states}


def test_a_disconnected_and_stopped_job_does_not_write_after_its_successor_started(network, run, start, tmp_path):
    one, two = network.nodes.values()
    first = start(one, run.log, CLOCK_STEP="-86400")
    run.wait_for_steps()
    token = holder_of(run.path).path.name

    # Its clock is set back by a day, that of its successor forward by an hour. Disconnected, it continues to train, since it
    # still has its disk. Another job sees that it is alive and is refused; the same job, restarted by SLURM elsewhere, waits.
    network.head.ip("link", "set", one.port, "down")
    other = start(two, tmp_path / "other.log", SLURM_JOB_ID="8")
    again = start(two, run.log, SLURM_RESTART_COUNT="1", CLOCK_STEP="3600")
    assert other.wait(200) == ExitCode.USER_ERROR
    said = (tmp_path / "other.log").read_text()
    assert "another job uses it" in said and "on node1" in said and "Traceback" not in said
    wait_until(lambda: "waiting to see whether process" in run.printed(), 200, f"it waits\n{run.printed()}")
    before = len(run.steps())
    wait_until(lambda: len(run.steps()) > before + 2, 200, "the first trains on")
    assert again.carrier.poll() is None and run.starts() == 1 and set(authors(run).values()) == {token}

    # Stopped, it loses the directory when its lease ends; when it resumes, the second job has made further steps.
    stopped, began = first.process, time.monotonic()
    stopped.send_signal(signal.SIGSTOP)
    wait_until(lambda: run.starts() == 2, 200, f"it goes on\n{run.printed()}")
    assert time.monotonic() - began > LEASE_SECONDS / 2
    successor = holder_of(run.path)
    assert successor.path.name != token and successor.owner.host == "node2"
    wait_until(lambda: list(authors(run).values()).count(successor.path.name) > 1, 200, f"it saves\n{run.printed()}")
    for process in (stopped, first.carrier):  # nsenter stops together with its child
        process.send_signal(signal.SIGCONT)
    assert first.wait(200) == ExitCode.DISPLACED, run.printed()
    assert "no longer belongs to this job" in run.printed() and "Traceback" not in run.printed()
    saved = len(authors(run))
    wait_until(lambda: len(authors(run)) > saved, 200, f"the second trains on\n{run.printed()}")
    again.process.send_signal(signal.SIGTERM)
    assert again.wait(200) == ExitCode.REQUEUE, run.printed()
    network.head.ip("link", "set", one.port, "up")

    by = authors(run)
    last = max(step for step, author in by.items() if author == token)
    assert set(by.values()) == {token, successor.path.name}
    assert all((author == token) == (step <= last) for step, author in by.items())
    assert (run.path / "checkpoints" / "latest").read_text().strip() == f"step-{max(by):08d}"
    assert run.is_seamless() and len(run.steps()) == max(by) and not (run.path / "run.lock").exists()
    assert [record["status"] for record in run.records() if record["event"] == "end"] == ["KILLED"]
