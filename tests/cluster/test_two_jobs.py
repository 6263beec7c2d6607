"""Two jobs, one run directory, two machines, one disk: whatever stops, cuts off or misleads them, one of them writes."""

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from mat_ds.errors import ExitCode
from mat_ds.lock import holder_of
from tests.cluster.hasty import LEASE_SECONDS
from tests.cluster.hosts import wait_until
from tests.cluster.runs import OPTIONS

pytestmark = [pytest.mark.cluster, pytest.mark.dist]

STEPS = 90
MORE = (f"train.max_steps={STEPS}", "train.save_every=3", f"train.keep_last={STEPS}", "train.resume=auto")


def start(host, run, log, **env):
    """A job on a host, as SLURM's job 7 would be."""
    command = (sys.executable, "-m", "tests.cluster.hasty", *OPTIONS, *MORE, f"output_dir={run.path}")
    return host.start(*command, log=log, SLURM_JOB_ID="7", **env)


def false_clock(days):
    """The environment of a process whose clock is wrong; none where that cannot be had."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{days}d", "DONT_FAKE_MONOTONIC": "1"} if library else {}


def authors(run):
    """Who saved each checkpoint, by step."""
    states = sorted(run.path.glob("checkpoints/step-*/state.json"))
    return {int(path.parent.name.removeprefix("step-")): json.loads(path.read_text())["writer"] for path in states}


def test_a_job_that_is_cut_off_stopped_and_comes_back_never_writes_beside_its_successor(network, run, tmp_path):
    one, two = network.nodes.values()
    first = start(one, run, run.log, **false_clock("-30"))
    run.wait_for_steps()
    token = next(path.name for path in (run.path / "run.lock").iterdir())

    # Another job, whose clock is in another year, finds that the lease is renewed, and is refused.
    other = start(two, run, tmp_path / "other.log", SLURM_JOB_ID="8", **false_clock("+400"))
    assert other.wait(200) == ExitCode.USER_ERROR
    said = (tmp_path / "other.log").read_text()
    assert "another job is in it" in said and "on node1" in said and "Traceback" not in said

    # Cut off, it trains on, as its disk is there; the same job, which SLURM has started again elsewhere, waits.
    network.head.ip("link", "set", one.port, "down")
    again = start(two, run, run.log, SLURM_RESTART_COUNT="1", **false_clock("+400"))
    wait_until(lambda: "waiting to see whether process" in run.printed(), 200, f"it waits\n{run.printed()}")
    before = len(run.steps())
    wait_until(lambda: len(run.steps()) > before + 1, 60, "the first trains on")
    assert again.carrier.poll() is None and run.starts() == 1
    stopped = first.process
    stopped.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: run.starts() == 2, 120, f"it goes on\n{run.printed()}")
    assert time.monotonic() - began > LEASE_SECONDS / 2
    successor = holder_of(run.path)
    assert successor.path.name != token and successor.owner.host == "node2"

    # The first comes back when the second has gone further.
    further = max(authors(run)) + 3
    wait_until(lambda: max(authors(run)) >= further, 120, f"it saves\n{run.printed()}")
    stopped.send_signal(signal.SIGCONT)
    assert first.wait(60) == ExitCode.DISPLACED, run.printed()
    assert "stopped:" in run.printed() and "is not this job's any more" in run.printed() and "Traceback" not in run.printed()
    network.head.ip("link", "set", one.port, "up")
    assert again.wait(300) == ExitCode.OK, run.printed()

    by = authors(run)
    last = max(step for step, author in by.items() if author == token)
    assert list(by) == list(range(3, STEPS + 1, 3)) and set(by.values()) == {token, successor.path.name}
    assert all((author == token) == (step <= last) for step, author in by.items())
    assert (run.path / "checkpoints" / "latest").read_text().strip() == f"step-{STEPS:08d}"
    assert run.is_seamless() and len(run.steps()) == STEPS and not (run.path / "run.lock").exists()
    assert not [record for record in run.records() if record["event"] == "end"][:-1]
