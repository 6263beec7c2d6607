"""A small process beside each rank that ends it when it can no longer end itself.

It prints nothing until it acts. It acts if

- the launcher is gone but its rank still trains: SIGTERM, so that the rank can save, and SIGKILL later;
- the rank is stopped, or waits for a disk that does not respond: SIGKILL, after its peers have given up. The kernel tells
  whether the main thread runs at all, so a slow but busy rank is not affected. A rank that hangs in a collective is ended by
  the collective's time-out, and one that hangs elsewhere by its lookout (`mat_ds.ranks.lookout`);
- the rank is gone but the launcher does not notice: SIGTERM to the launcher.

Only processes with the name of a launcher count as one, never a shell, a test runner or a terminal.
It runs as a script, and must stay small: this file must not import anything but psutil.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

LAUNCHERS = {
    "deepspeed", "deepspeed.launcher.runner", "deepspeed.launcher.launch", "mat_ds.ranks.local_launch",
    "torchrun", "torch.distributed.run", "slurmstepd",
    "mat-ds", "mat_ds.cli",  # the worker of a sweep
}  # fmt: skip
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish"}

# Seconds between two checks.
LOOK = 1.0
# Seconds beyond the peers' time-out that a rank may be stopped, so that the peers report first.
GRACE = 15
# Seconds from SIGTERM to SIGKILL, as launchers use.
LEAVE = 30
# Seconds for a launcher to notice that a rank is gone. DeepSpeed's checks every second, but waits for each rank it ends.
NOTICE = 60


STANDSTILL = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_DISK_SLEEP)


def _find(pid: str) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(int(pid))
    return None


def _state(process: psutil.Process | None) -> str:
    """The kernel's state of a process; STATUS_DEAD if it is gone, or if its number now belongs to another."""
    with suppress(psutil.NoSuchProcess):
        return str(process.status()) if process and process.is_running() else psutil.STATUS_DEAD
    return psutil.STATUS_DEAD


def _alive(process: psutil.Process | None) -> bool:
    return _state(process) not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def _standstill(process: psutil.Process) -> tuple[int, ...] | None:
    """Counters that change when the main thread runs, if it is stopped or in uninterruptible sleep; else None."""
    with suppress(psutil.Error):
        return tuple(process.num_ctx_switches()) if _state(process) in STANDSTILL else None
    return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error):
        process.send_signal(number)


def launchers() -> tuple[psutil.Process, ...]:
    """The launchers above this process, nearest first; skips shells in between."""
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            # A script's process has the script's name, and the shell as its first word.
            name, words = process.name(), [word.rpartition("/")[2] for word in process.cmdline()[:5]]
            if LAUNCHERS & {name, *words}:
                found.append(process)
            elif not SHELLS & {name, *words[:1]}:
                break
    return tuple(found)


@contextmanager
def watched(name: str, above: tuple[psutil.Process, ...], seconds: float) -> Iterator[None]:
    """A context in which a watchdog monitors this process.

    Args:
        name: of this process, in messages.
        above: its launchers, nearest first.
        seconds: how long its peers wait for it.
    """
    numbers = [str(pid) for pid in (os.getpid(), *(launcher.pid for launcher in above))]
    command = [sys.executable, "-P", __file__, name, str(seconds), *numbers]
    # In the rank's process group, so that suspending the job suspends it too.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", bufsize=0)
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(b".", GRACE)
        process.kill()


def watch(name: str, rank: psutil.Process, above: Sequence[psutil.Process | None], seconds: float) -> None:
    """Monitors a rank until it ends, or until a byte arrives on standard input.

    Args:
        name: of the rank, in messages.
        rank: its process.
        above: its launchers, nearest first; None for one that is gone.
        seconds: how long its peers wait for it.
    """
    looks, last = 0, None
    asked: float | None = None
    while _alive(rank):
        if _byte_came():
            return
        if asked is None and not all(map(_alive, above)):
            _say(f"{name} is ended: its launcher is gone")
            _send(rank, signal.SIGTERM)
            asked = time.monotonic()
        if asked is not None and time.monotonic() - asked > LEAVE:
            _send(rank, signal.SIGKILL)
            break
        # Count checks, not seconds: no check happens while this process is suspended together with its rank.
        now = _standstill(rank)
        looks, last = (looks + 1 if now and now == last else 0), now
        if looks * LOOK > seconds + GRACE:
            _say(f"{name} is killed: it is stopped or waits for a disk, longer than the others wait for it ({seconds:.0f} s)")
            _send(rank, signal.SIGKILL)
            break

    launcher = above[0] if above else None
    deadline = time.monotonic() + NOTICE
    while launcher and _alive(launcher) and _state(rank) != psutil.STATUS_DEAD:
        if time.monotonic() > deadline:
            _say(f"the launcher (process {launcher.pid}) is ended: it takes no note of the end of {name}")
            return _send(launcher, signal.SIGTERM)
        time.sleep(LOOK / 5)


def _byte_came() -> bool:
    """Waits up to LOOK seconds; returns whether the rank has dismissed its watchdog."""
    if not select.select([0], [], [], LOOK)[0]:
        return False
    if os.read(0, 1):
        return True
    time.sleep(LOOK / 5)  # the pipe is closed: the rank is about to end
    return False


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"\nwatchdog: {line}\n".encode())


def main(arguments: list[str]) -> None:
    """Arguments: NAME SECONDS, then the numbers of the rank's process and of its launchers', nearest first."""
    # Signals to the rank's whole process group must not end this process early.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    name, seconds, *numbers = arguments
    rank, *above = map(_find, numbers)
    if rank:
        watch(name, rank, above, float(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
