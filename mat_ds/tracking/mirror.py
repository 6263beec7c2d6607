"""The process that mirrors a run to MLflow while it runs: it reads `events.jsonl` as training appends to it.

Training never speaks to MLflow, so no server can slow it down or stop it: the file is the queue. What this process could not
deliver, because a server is down or the job was killed, the next start of the run delivers, or `mat-ds sync`.

It is started by rank 0 and ends after it. They share nothing but a pipe that closes with rank 0, however that ends.
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
from mat_ds.tracking.told import open_log

if TYPE_CHECKING:
    from mat_ds.tracking.replica import Replica

# Seconds between two looks at the file, at first and at most, as long as nothing can be delivered.
LOOK, LONGEST_LOOK = 2.0, 60.0
# Seconds in which the rest is delivered when the run has ended; that a request may take; that rank 0 waits in all.
DRAIN, REQUEST, PATIENCE = 8.0, 5, 15.0
# Failures after which nothing more is tried then.
FAILURES = 3

# A launcher's word to its ranks is none to this process.
RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start_mirror(run: RunDirectory, uri: str) -> subprocess.Popen[bytes]:
    """Starts it; it ends when the standard input it is given is closed."""
    inherited = {key: value for key, value in os.environ.items() if key not in RANK_VARIABLES}
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), inherited.get("PYTHONPATH")]))
    own = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with os.fdopen(open_log(run), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mat_ds.tracking.mirror", str(run.path.resolve()), uri],
            stdin=subprocess.PIPE, stdout=log, stderr=log, env={**inherited, **own}, cwd="/", start_new_session=True, bufsize=0,
        )  # fmt: skip


def bound_requests(seconds: int, retries: int) -> None:
    """Keeps MLflow from waiting for a server for minutes, unless the environment says otherwise."""
    for name, value in (("TIMEOUT", seconds), ("MAX_RETRIES", retries)):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", str(value))


def reason(error: Exception) -> str:
    """An error in one line that holds no more than it must, and no secret."""
    said = printable(masked(" ".join(str(error).split())))
    return f"{type(error).__name__}: {said[:300]}"


def mirror(run: RunDirectory, uri: str, parent: int) -> bool:
    """Delivers until process `parent`, whose end also closes the standard input, is gone; whether all has been."""
    replica: Replica | None = None
    wait, said, deadline, failures = 0.0, "", float("inf"), 0
    while True:
        if deadline == float("inf") and _ended(wait, parent):
            deadline, failures = time.monotonic() + DRAIN, 0
        try:
            if replica is None:
                replica = _connect(run, uri)
            replica.deliver()
            wait, said = LOOK, ""
            # A rank that was killed may hold its lock a moment longer than its pipe.
            delivered = replica.status != "RUNNING"
        except Exception as error:
            delivered, failures = False, failures + 1
            if replica:
                with suppress(OSError):
                    replica.note()
            replica, wait = None, min(max(2 * wait, LOOK), LONGEST_LOOK)
            if said != (said := reason(error)):
                show(f"{time.strftime('%Y-%m-%d %H:%M:%S')} not delivered, tried again later: {said}")
        if deadline < float("inf"):
            if delivered or failures == FAILURES or time.monotonic() > deadline:
                if replica:
                    replica.note()
                return delivered
            time.sleep(LOOK / 4)


def _connect(run: RunDirectory, uri: str) -> Replica:
    from mat_ds.tracking.replica import Replica

    return Replica(run, uri)


def _ended(seconds: float, parent: int) -> bool:
    """Whether the run's process is gone; waits so long to hear."""
    heard = select.select([0], [], [], seconds)[0]
    # The pipe may live on in a process that a library forked.
    return bool(heard and not os.read(0, 1)) or os.getppid() != parent


def main(arguments: Sequence[str]) -> int:
    """Mirrors the run in the folder that is the first argument to the MLflow that is the second."""
    parent = os.getppid()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
        # Linux shares processors out among sessions first, and this process has its own.
        Path("/proc/self/autogroup").write_text("10")
    bound_requests(REQUEST, 0)
    return 0 if mirror(RunDirectory(Path(arguments[0])), arguments[1], parent) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
