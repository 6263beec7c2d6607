"""The cost of the mirror to MLflow: the time of a training step while the mirror runs, and while it is suspended.

    python -m benchmarks.mirror [seconds]

trains the demo in one process three times: with a server that refuses connections, with one that accepts them and never
answers, and with a working SQLite file. In each run the mirror is suspended and resumed (SIGSTOP, SIGCONT) every few seconds,
so that both kinds of steps see the same load.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import psutil

from mat_ds.storage.events import read_events
from tests.support.launch import ROOT, cli, environment, free_port

OPTIONS = (
    "--ds_config",
    "ds_configs/zero2.json",
    "data.train_limit=512",
    "data.eval_limit=20",
    "train.batch_size=32",
    "train.micro_batch_size=32",
    "train.max_steps=1000000",
    "train.eval_per_epoch=0",
    "train.save_every=1000000",
    "train.telemetry_every=0",
    "method.delta_steps=2",
    "method.theta_steps=2",
)
BLOCK = 5.0


def mirror_of(process: subprocess.Popen[bytes], run: Path) -> psutil.Process:
    """The mirror process of a run; waits until the run has made its first steps."""
    while sum(record["event"] == "step" for record in read_events(run / "events.jsonl")) < 20:
        time.sleep(1)
    return next(p for p in psutil.Process(process.pid).children() if "mat_ds.tracking.mirror" in p.cmdline())


def measure(uri: str, folder: Path, seconds: float) -> tuple[list[float], list[float], float]:
    """Seconds of each step with and without the mirror, and the mirror's processor time."""
    run = folder / "run"
    process = subprocess.Popen(
        cli(*OPTIONS, f"output_dir={run}", f"tracking.uri={uri}"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    blocks: list[tuple[float, float, bool]] = []
    try:
        mirror = mirror_of(process, run)
        before, end = sum(mirror.cpu_times()[:2]), time.time() + seconds
        while time.time() < end:
            for runs in (True, False):
                mirror.resume() if runs else mirror.suspend()
                start = time.time()
                time.sleep(BLOCK)
                blocks.append((start, time.time(), runs))
        mirror.resume()
        took = sum(mirror.cpu_times()[:2]) - before
    finally:
        process.kill()
        process.wait()
    times = [record["time"] for record in read_events(run / "events.jsonl") if record["event"] == "step"]
    steps: dict[bool, list[float]] = {True: [], False: []}
    for one, next_one in pairwise(times):
        for start, stop, runs in blocks:
            if start < one and next_one < stop:
                steps[runs].append(next_one - one)
    psutil.wait_procs([mirror], 30)
    return steps[True], steps[False], took


def main(seconds: float) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        servers = {
            "refuses": f"http://127.0.0.1:{free_port()}",
            "never answers": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "SQLite file": "null",
        }
        print("| MLflow | steps | ms with the mirror | ms without | ratio | mirror's processor time, % of a core |")
        print("|---|---|---|---|---|---|")
        for name, uri in servers.items():
            with tempfile.TemporaryDirectory() as folder:
                on, off, took = measure(uri, Path(folder), seconds)
                medians = [1000 * statistics.median(steps) for steps in (on, off)]
                print(json.dumps({"mean ms": [1000 * statistics.fmean(on), 1000 * statistics.fmean(off)]}), file=sys.stderr)
            print(
                f"| {name} | {len(on) + len(off)} | {medians[0]:.1f} | {medians[1]:.1f} | {medians[0] / medians[1]:.3f} | "
                f"{200 * took / seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 120.0)
