"""A process that mirrors a run to MLflow, by reading `events.jsonl` while training appends to it.

Training itself never talks to MLflow, so a slow or broken server cannot affect it. Whatever this process could not deliver is
delivered by the next start of the run, or by `mat-ds sync`.

Rank 0 starts it, and it ends after rank 0. They only share a pipe, which closes when rank 0 ends for whatever reason.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.config.packaged import PACKAGE
from mat_ds.errors import masked, printable
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show
from mat_ds.terminal.process import run_process
from mat_ds.tracking.mirrored import open_log

if TYPE_CHECKING:
    from mat_ds.tracking.replica import Replica

# Seconds between two reads of the file: initially, and at most while delivery fails.
LOOK, LONGEST_LOOK = 2.0, 60.0
# Seconds to deliver the rest after the run has ended; for one request; that rank 0 waits in total.
DRAIN, REQUEST, PATIENCE = 8.0, 5, 15.0
# After the run has ended, give up after this many failures.
FAILURES = 3

# The launcher's variables for ranks are removed from this process's environment.
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start_mirror(run: RunDirectory, uri: str) -> subprocess.Popen[bytes]:
    """Starts the mirror process; it ends when its standard input is closed."""
    inherited = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), inherited.get("PYTHONPATH")]))
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with os.fdopen(open_log(run), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mat_ds.tracking.mirror", str(run.path.resolve()), uri],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env={**inherited, **own}, cwd="/", start_new_session=True, bufsize=0,
        )  # fmt: skip


def bound_requests(seconds: int, retries: int) -> None:
    """Sets MLflow's request timeouts, which are minutes by default, unless the environment sets them."""
    for name, value in (("TIMEOUT", seconds), ("MAX_RETRIES", retries)):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", str(value))


def reason(error: Exception) -> str:
    """An error as one short line without secrets."""
    said = printable(masked(" ".join(str(error).split())))
    return f"{type(error).__name__}: {said[:300]}"


def mirror(run: RunDirectory, uri: str, parent: int) -> bool:
    """Delivers until process `parent` is gone, which also closes standard input. Returns whether everything was delivered."""
    replica: Replica | None = None
    wait, said, deadline, failures = 0.0, "", float("inf"), 0
    while True:
        if deadline == float("inf") and _ended(wait, parent):
            deadline, failures = time.monotonic() + DRAIN, 0
        try:
            if replica is None:
                from mat_ds.tracking.replica import Replica

                replica = Replica(run, uri)
            replica.deliver()
            wait, said = LOOK, ""
            # a killed rank may hold its lock a moment longer than its pipe
            delivered = replica.status != "RUNNING"
        except Exception as error:
            delivered, failures = False, failures + 1
            replica, wait = None, min(max(2 * wait, LOOK), LONGEST_LOOK)
            if said != (said := reason(error)):
                show(f"{time.strftime('%Y-%m-%d %H:%M:%S')} not delivered, tried again later: {said}")
        if deadline < float("inf"):
            if delivered or failures == FAILURES or time.monotonic() > deadline:
                return delivered
            time.sleep(LOOK / 4)


def _ended(seconds: float, parent: int) -> bool:
    """Waits up to `seconds`; returns whether the run's process has ended."""
    heard = select.select([0], [], [], seconds)[0]
    # a process forked by a library may keep the pipe open
    return bool(heard and not os.read(0, 1)) or os.getppid() != parent


def main(arguments: Sequence[str]) -> int:
    """Mirrors the run in folder `arguments[0]` to the MLflow at `arguments[1]`."""
    parent = os.getppid()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
        # Linux distributes CPU time among sessions first, and this process has its own session.
        Path("/proc/self/autogroup").write_text("10")
    bound_requests(REQUEST, 0)
    return 0 if mirror(RunDirectory(Path(arguments[0])), arguments[1], parent) else 1


if __name__ == "__main__":
    run_process(main)
