"""Processor time of one rank from the command to the first step of the demo."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

from benchmarks.speed.timing import Figure

ROOT = Path(__file__).parents[2]
# A dry run does all that comes before the first step, and nothing else.
COMMAND = ("launch/train.py", "--ds_config", "zero2", "--dry_run")
ROUNDS = 3


def measure() -> Figure:
    """The median in seconds, of processes that find their files in the system's cache."""
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    imports = "import mat_ds.training.preflight, mat_ds.training.run"
    seconds = [_seconds(*COMMAND, **threads) for _ in range(1 + ROUNDS)]
    importing = [_seconds("-c", imports, **threads) for _ in range(ROUNDS)]
    details = {"seconds": seconds[1:], "imports": importing, "first": seconds[0], "load": os.getloadavg()[0]}
    return Figure(round(median(seconds[1:]), 2), details)


def _seconds(*arguments: str, **variables: str) -> float:
    """Processor seconds of a Python process, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run((sys.executable, *arguments), cwd=ROOT, env={**os.environ, **variables}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)
