"""A small process beside each rank that ends it when it can no longer end itself.

It prints nothing until it acts. It acts if

- the launcher is gone but its rank still trains: SIGTERM, so that the rank can save, and SIGKILL later;
- the rank is stopped, or waits for a disk that does not respond: SIGKILL, after its peers have given up. The kernel tells
  whether the main thread runs at all, so a slow but busy rank is not affected. A rank that hangs in a collective is ended by
  the collective's time-out, and one that hangs elsewhere by its lookout (`mat_ds.ranks.lookout`);
- the rank is gone but the launcher does not notice: SIGTERM to the launcher.

Only processes with the name of a launcher count as one, never a shell, a test runner or a terminal.
It runs as a script with the standard library alone: this file must not import anything else.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LAUNCHERS = {
    "deepspeed", "deepspeed.launcher.runner", "deepspeed.launcher.launch", "torchrun", "torch.distributed.run", "slurmstepd",
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


class Process(NamedTuple):
    """A process, identified by its number and start time (clock ticks since boot), since numbers are reused."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> Process | None:
        fields = _stat(pid)
        return cls(pid, int(fields[19])) if fields else None

    @property
    def state(self) -> str:
        """The kernel's state letter; `Z` for a zombie, empty if the process is gone."""
        fields = _stat(self.pid)
        return fields[0] if fields and int(fields[19]) == self.started else ""

    @property
    def alive(self) -> bool:
        return self.state not in ("", "Z", "X")

    @property
    def standstill(self) -> tuple[str, ...] | None:
        """Counters that change when the main thread runs, if it is stopped or in uninterruptible sleep; else None."""
        if self.state not in ("T", "t", "D"):
            return None
        with suppress(OSError):
            status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            return tuple(line for line in status if "ctxt_switches" in line)
        return None

    def send(self, number: signal.Signals) -> None:
        if self.state:
            with suppress(OSError):
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` from the state on; the program's name before it may contain anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def launchers() -> tuple[Process, ...]:
    """The launchers above this process, nearest first; skips shells in between."""
    found, pid = [], os.getppid()
    while pid > 1 and (process := Process.find(pid)):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:5]
        except OSError:
            break
        # A script's process has the script's name, and the shell as its first word.
        names = {name, *(word.rpartition("/")[2] for word in words)}
        if LAUNCHERS & names:
            found.append(process)
        elif not SHELLS & {name, words[0].rpartition("/")[2]}:
            break
        pid = int((_stat(pid) or ["", "0"])[1])
    return tuple(found)


@contextmanager
def watched(name: str, above: tuple[Process, ...], seconds: float) -> Iterator[None]:
    """A context in which a watchdog monitors this process; does nothing without /proc.

    Args:
        name: of this process, in messages.
        above: its launchers, nearest first.
        seconds: how long its peers wait for it.
    """
    if not (this := Process.find(os.getpid())):
        yield
        return
    numbers = [str(number) for process in (this, *above) for number in process]
    command = [sys.executable, "-I", "-S", __file__, name, str(seconds), *numbers]
    # In the rank's process group, so that suspending the job suspends it too.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/", bufsize=0)
    try:
        yield
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(b".", GRACE)
        process.kill()


def watch(name: str, rank: Process, above: tuple[Process, ...], seconds: float) -> None:
    """Monitors a rank until it ends, or until a byte arrives on standard input.

    Args:
        name: of the rank, in messages.
        rank: its process.
        above: its launchers, nearest first.
        seconds: how long its peers wait for it.
    """
    looks, last = 0, None
    asked: float | None = None
    while rank.alive:
        if _byte_came():
            return
        if asked is None and (gone := [launcher for launcher in above if not launcher.alive]):
            _say(f"{name} is ended: its launcher (process {gone[0].pid}) is gone")
            rank.send(signal.SIGTERM)
            asked = time.monotonic()
        if asked is not None and time.monotonic() - asked > LEAVE:
            rank.send(signal.SIGKILL)
            break
        # Count checks, not seconds: no check happens while this process is suspended together with its rank.
        now = rank.standstill
        looks, last = (looks + 1 if now and now == last else 0), now
        if looks * LOOK > seconds + GRACE:
            _say(f"{name} is killed: it is stopped or waits for a disk, longer than the others wait for it ({seconds:.0f} s)")
            rank.send(signal.SIGKILL)
            break

    def unnoticed() -> bool:
        return bool(above and above[0].alive and rank.state)

    _wait_while(unnoticed, NOTICE)
    if unnoticed():
        _say(f"the launcher (process {above[0].pid}) is ended: it takes no note of the end of {name}")
        above[0].send(signal.SIGTERM)


def _byte_came() -> bool:
    """Waits up to LOOK seconds; returns whether the rank has dismissed its watchdog."""
    if not select.select([0], [], [], LOOK)[0]:
        return False
    if os.read(0, 1):
        return True
    time.sleep(LOOK / 5)  # the pipe is closed: the rank is about to end
    return False


def _wait_while(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        time.sleep(LOOK / 5)


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"\nwatchdog: {line}\n".encode())


def main(arguments: list[str]) -> None:
    """Arguments: NAME SECONDS, then number and start time of the rank and of its launchers, nearest first."""
    # Signals to the rank's whole process group must not end this process early.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    name, seconds, *numbers = arguments
    rank, *above = [Process(int(pid), int(started)) for pid, started in zip(numbers[::2], numbers[1::2], strict=True)]
    watch(name, rank, tuple(above), float(seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
