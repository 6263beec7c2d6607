"""Starts worker processes with a launcher's environment, but without a launcher's start-up time."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mat_ds.ranks.ports import free_port
from tests.support.processes import ROOT, Process, run


def environment(device="cpu", **more):
    """Environment variables of a process under test. It runs on the CPU, even with a GPU present, unless `device` is "cuda"."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")}
    # Packages may lie beside the interpreter's own.
    path = os.pathsep.join(dict.fromkeys(filter(None, [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])))
    ours = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": device}
    ours["PYTHONFAULTHANDLER"] = "1"  # what `run` asks of a process that takes too long
    return {**inherited, **ours, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}), **more}


def rank_variables(rank, count, port):
    """The variables that a launcher sets for one of `count` ranks on this machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run_ranks(module, ranks, *arguments, timeout=600, device="cpu"):
    """Runs `python -m module REPORT arguments` on `ranks` processes and returns what rank 0 reported."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        logs = [Path(folder) / f"rank-{rank}.log" for rank in range(ranks)]
        processes = []
        for rank, log in enumerate(logs):
            env = environment(device, **rank_variables(rank, ranks, port))
            command = [sys.executable, "-m", module, str(report), *arguments]
            with log.open("w") as out:
                processes.append(Process(command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT))
        try:
            codes = [process.wait(timeout) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert codes == [0] * ranks, "\n".join(f"--- rank {r}\n{log.read_text()[-3000:]}" for r, log in enumerate(logs))
        return json.loads(report.read_text())


def start_ranks(ranks, *arguments, log=None, module=None):
    """Starts launch/train.py, or a module, on `ranks` processes without a launcher; returns the processes."""
    port, out = free_port(), log.open("a") if log else subprocess.DEVNULL
    processes = []
    for rank in range(ranks):
        env = environment(**rank_variables(rank, ranks, port))
        processes.append(Process(cli(*arguments, module=module), cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT))
    return processes


def cli(*arguments, ranks=None, script="train", module=None, launcher=False):
    """The command that runs a script of launch/, or a module, on `ranks` processes, on request under deepspeed's launcher.

    A run is mirrored to MLflow, which takes seconds, only if its options ask for it.
    """
    arguments = list(map(str, arguments))
    if (script, module) == ("train", None) and not any(argument.startswith("tracking.") for argument in arguments):
        arguments.append("tracking.uri=none")
    if not launcher:
        start = ["-m", "tests.workers.ranks", str(ranks)] if ranks else []
        return [sys.executable, *start, *(["-m", module] if module else [f"launch/{script}.py"]), *arguments]
    # As a module, which is what the program `deepspeed` runs, it is forked by the fork server; the ranks are started afresh.
    deepspeed = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet", "--num_gpus", str(ranks)]
    target = ["--module", module] if module else [f"launch/{script}.py"]
    return [*deepspeed, "--master_port", str(free_port()), *target, *arguments]


def run_cli(*arguments, timeout=600, device="cpu", ranks=None, script="train", module=None, launcher=False, **env):
    """Runs what `cli` says, and returns the finished process."""
    command = cli(*arguments, ranks=ranks, script=script, module=module, launcher=launcher)
    return run(command, timeout, cwd=ROOT, env=environment(device, **env))


def start_cli(*arguments, ranks=None):
    """Starts launch/train.py under the launcher, without output, in a new process group; returns the process."""
    command = cli(*arguments, ranks=ranks, launcher=ranks is not None)
    return Process(
        command, cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
