"""A process that mirrors a run to MLflow, by reading `events.jsonl` while training appends to it.

Training itself never talks to MLflow, so a slow or broken server cannot affect it. Whatever this process could not deliver is
delivered by the next start of the run, or by `mat-ds sync`.

Rank 0 starts it, and it ends after rank 0. They only share a pipe, which closes when rank 0 ends for whatever reason. It has a
session and a log of its own, so it can deliver the rest while the user goes on at the prompt.
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
from mat_ds.tracking.mirrored import open_log, sync_command

if TYPE_CHECKING:
    from mat_ds.tracking.replica import Replica

# Seconds between two reads of the file: initially, and at most while delivery fails.
LOOK, LONGEST_LOOK = 2.0, 60.0
# Seconds for one request; and to deliver the rest after the run has ended.
REQUEST, REST = 5, 300.0
# After the run has ended, give up after this many failures in a row.
FAILURES = 3
# Seconds that a killed rank may hold the lock of its run longer than its pipe.
HELD = 8.0
# The niceness of deliveries while the run goes on, and that of the user's processes.
LOW, FIRST_NICENESS = 10, os.getpriority(os.PRIO_PROCESS, 0)

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


def outlives_this_process() -> bool:
    """Whether a process started here can go on after this one has ended, and somebody waits for the prompt meanwhile.

    A SLURM job step kills what its tasks leave behind. A container ends with its first process, whose session this then is.
    Without a terminal this may be a step of any other system that does so.
    """
    with suppress(OSError):
        if os.getsid(0) == os.getsid(1):
            return False
    return "SLURM_JOB_ID" not in os.environ and sys.stderr.isatty()


def bound_requests(seconds: int, retries: int) -> None:
    """Sets MLflow's request timeouts, which are minutes by default, unless the environment sets them."""
    for name, value in (("TIMEOUT", seconds), ("MAX_RETRIES", retries)):
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", str(value))


def reason(error: Exception) -> str:
    """An error as one short line without secrets."""
    said = printable(masked(" ".join(str(error).split())))
    return f"{type(error).__name__}: {said[:300]}"


def mirror(run: RunDirectory, uri: str, parent: int) -> bool:
    """Delivers until process `parent` is gone, which also closes standard input. Returns whether everything was delivered.

    Only while the run goes on does it let training go first, and not before it has begun: on a busy machine the import of
    MLflow alone would else take longer than many a run.
    """
    replica: Replica | None = None
    wait, said, ended, failures = 0.0, "", float("inf"), 0
    while True:
        if ended == float("inf") and _ended(wait, parent):
            ended, failures, wait = time.monotonic(), 0, 0.0
            _set_niceness(0)
        try:
            if not run.events.exists():  # somebody deleted the run: nothing may be created in its place
                return False
            if replica is None:
                from mat_ds.tracking.replica import Replica

                replica = Replica(run, uri)
            replica.deliver()
            wait, said, failures = LOOK, "", 0
        except Exception as error:
            replica, failures, wait = None, failures + 1, min(max(2 * wait, LOOK), LONGEST_LOOK)
            if said != (said := reason(error)):
                _note(f"not delivered, tried again later: {said}")
        if ended == float("inf"):
            _set_niceness(LOW)
            continue
        delivered, seconds = replica is not None and replica.status != "RUNNING", time.monotonic() - ended
        if not delivered and (failures == FAILURES or seconds > REST):
            _note(f"not delivered, given up: `{sync_command(run, uri)}` delivers the rest")
            return False
        if delivered or (replica and seconds > HELD):  # still RUNNING: the run has been started again, with its own mirror
            return delivered
        time.sleep(LOOK / 4)


def _note(line: str) -> None:
    """Appends a line to `tracking.log`, which is this process's standard output."""
    show(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")


def _set_niceness(niceness: int) -> None:
    """Sets this process's priority, as far as the system allows; a lowered one cannot be raised again everywhere."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, FIRST_NICENESS))
    with suppress(OSError):  # Linux distributes CPU time among sessions first, and this process has its own session
        Path("/proc/self/autogroup").write_text(str(niceness))


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
    bound_requests(REQUEST, 0)
    return 0 if mirror(RunDirectory(Path(arguments[0])), arguments[1], parent) else 1


if __name__ == "__main__":
    run_process(main)
