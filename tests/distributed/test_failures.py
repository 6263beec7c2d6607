"""When a rank fails, dies or hangs, the others end too: in bounded time, with one message, and no process left."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from tests.support.launch import ROOT, cli, environment, free_port, run_cli, run_ranks, start_ranks

pytestmark = pytest.mark.dist

# A run that would take hours, on ranks that wait 20 seconds for each other.
ENDLESS = ("--ds_config", "ds_configs/zero2.json", "train.timeout_minutes=0.33333", "train.max_steps=1000000",
           "train.telemetry_every=0", "data.train_limit=256", "data.eval_limit=50", "method.delta_steps=1",
           "method.theta_steps=1", "train.save_every=1000000", "train.eval_per_epoch=0", "tracking.uri=none")  # fmt: skip


@pytest.fixture
def launched():
    """Starts launchers that print to a file; at the end all remaining processes are killed."""
    processes = []

    def start(command, output):
        with output.open("w") as out:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=out, stderr=subprocess.STDOUT))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            for descendant in psutil.Process(process.pid).children(recursive=True):
                descendant.kill()
            process.kill()
            process.wait()


def ranks_of(run):
    """The running processes that train into a folder, by rank."""
    found = {}
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if f"output_dir={run}" in command and "launch/train.py" in command[1:3]:
                found[int(process.environ()["RANK"])] = process
        except (psutil.Error, KeyError):
            continue
    return found


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


def trains(run):
    return any(record["event"] == "step" for record in read_events(run / "events.jsonl"))


def tracebacks(text):
    return text.count("Traceback (most recent call last)")


def test_every_group_has_the_configured_timeout_and_the_first_failure_is_printed_once():
    report = run_ranks("tests.workers.failing", 2, *(str(free_port()) for _ in range(11)))
    assert report.pop("default put back")
    for stage in range(4):
        found = report.pop(f"time-outs zero-{stage}")
        assert len(found) > 1 and set(found) == {77.0}, (stage, found)
    for name, outcomes in report.items():
        codes, texts, seconds = zip(*outcomes, strict=True)
        assert codes == (ExitCode.FAILED,) * 2 and max(seconds) < 60, (name, codes, seconds)
        said = "".join(texts)
        assert len(re.findall(r"^rank \d on \S+ failed:$", said, re.M)) == 1, (name, said)
    for error in ("value", "memory", "gpu memory"):
        for rank in (0, 1):
            speaks, silent = report[f"{error} on {rank}"][rank][1], report[f"{error} on {rank}"][1 - rank][1]
            assert speaks.startswith(f"\nrank {rank} on ") and tracebacks(speaks) == 1 and silent == ""
            assert ("train.micro_batch_size" in speaks) == ("memory" in error)
    for name in ("clean-up", "averaged"):
        assert "row 7 has no label" in report[name][1][1] and report[name][0][1] == ""
    assert "disk full" in report["told"][0][1] and report["told"][1][1] == ""


@pytest.mark.parametrize("killed", [0, 1])
def test_the_remaining_rank_names_the_one_that_was_killed(killed, tmp_path):
    run, log = tmp_path / "run", tmp_path / "ranks.log"
    ranks = start_ranks(2, *ENDLESS, f"output_dir={run}", log=log)
    try:
        assert wait_for(lambda: trains(run), 300), log.read_text()
        ranks[killed].kill()
        code = ranks[1 - killed].wait(20)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    said = log.read_text()
    assert code == ExitCode.FAILED and tracebacks(said) == 0
    assert re.findall(rf"stopped: rank {killed}\b.* without a word", said) and said.count("stopped:") == 1
    assert "terminate called" not in said and "c10" not in said


def test_a_rank_that_waits_after_another_failed_is_ended(tmp_path):
    """For instance in an NCCL collective, which would wait until its time-out."""
    log = tmp_path / "ranks.log"
    fails, waits = start_ranks(2, log=log, module="tests.workers.stuck")
    try:
        assert (fails.wait(300), waits.wait(30)) == (ExitCode.FAILED, ExitCode.FAILED)
    finally:
        for rank in (fails, waits):
            rank.kill()
            rank.wait()
    assert tracebacks(log.read_text()) == 1 and "RuntimeError: out of luck" in log.read_text()


def test_a_stopped_rank_makes_its_peer_end_at_the_timeout_and_then_its_own_launcher(tmp_path, launched):
    """Two launchers, as on two nodes: the launcher of the stopped rank would not notice that the peer ended."""
    run, port = tmp_path / "run", free_port()
    nodes = base64.urlsafe_b64encode(json.dumps({"one": [0], "two": [0]}).encode()).decode()
    launch = [
        sys.executable,
        "-m",
        "deepspeed.launcher.launch",
        f"--world_info={nodes}",
        "--master_addr=127.0.0.1",
        f"--master_port={port}",
        "--log_level=error",
    ]
    first, second = (
        launched(
            [*launch, f"--node_rank={node}", "launch/train.py", *ENDLESS, f"output_dir={run}"], tmp_path / f"node-{node}.log"
        )
        for node in (0, 1)
    )
    assert wait_for(lambda: trains(run), 300), (tmp_path / "node-0.log").read_text()
    ranks_of(run)[1].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert first.wait(45) == ExitCode.FAILED
    assert 18 < time.monotonic() - stopped < 40
    assert second.wait(45) not in (0, None) and ranks_of(run) == {}
    one, two = ((tmp_path / f"node-{node}.log").read_text() for node in (0, 1))
    assert "stopped: rank 1 on" in one and "without a word" in one and tracebacks(one + two) == 0
    assert "watchdog: rank 1 is killed: it is stopped" in two and "watchdog" not in one


def test_ranks_do_not_outlive_a_launcher_that_was_killed(tmp_path, launched):
    run, log = tmp_path / "run", tmp_path / "launcher.log"
    launcher = launched(cli(*ENDLESS, f"output_dir={run}", ranks=2, launcher=True), log)
    assert wait_for(lambda: trains(run), 300), log.read_text()
    everyone = psutil.Process(launcher.pid).children(recursive=True)
    assert len(ranks_of(run)) == 2 and len(everyone) >= 5
    os.kill(launcher.pid, signal.SIGKILL)
    assert psutil.wait_procs(everyone, 20)[1] == []
    assert "is ended: its launcher" in log.read_text() and tracebacks(log.read_text()) == 0


@pytest.mark.parametrize(("rank", "error"), [pytest.param(0, "KeyError", marks=pytest.mark.slow), (1, "MemoryError")])
def test_under_the_launcher_only_the_rank_that_fails_in_the_loader_prints(rank, error, tmp_path):
    done = run_cli(
        *ENDLESS, f"output_dir={tmp_path}/run", ranks=2, module="tests.workers.faulty", launcher=True, FAULT=f"{rank} {error}"
    )
    assert done.returncode == ExitCode.FAILED
    assert tracebacks(done.stderr) == 1 and done.stderr.count(f"rank {rank} on ") >= 1
    assert f"\n{error}: " in done.stderr and ("mat-ds plan" in done.stderr) == (error == "MemoryError")


@pytest.mark.slow
def test_thirty_launches_end_clean(tmp_path):
    """A thread that outlives its process group would abort one of ten processes at exit."""
    codes = []
    for i in range(30):
        stage = ("zero1", "zero2", "zero3")[i % 3]
        done = run_cli("--ds_config", f"ds_configs/{stage}.json", "train.max_steps=3", "data.train_limit=128",
                       "data.eval_limit=50", f"output_dir={tmp_path}/{i}", ranks=2)  # fmt: skip
        codes.append((done.returncode, "terminate called" in done.stderr))
    assert codes == [(0, False)] * 30
