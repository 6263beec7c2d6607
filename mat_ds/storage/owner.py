"""Who holds a lock: a process told from every other, and what is known of it from here.

A process number means something only within one boot of one kernel and one PID namespace, which containers have of their own
though they may share a host name; numbers come round again, so one is told from a later one by when it started, in the
kernel's ticks since boot, which no clock that is set moves. Where this process cannot tell that it is in the same place,
nothing is known of the other.
"""

from __future__ import annotations

import json
import os
import socket
import time
import zlib
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

SEAL = "crc32"
LARGEST_PID = 2**31 - 1


class Fate(Enum):
    """What is known of a process."""

    ALIVE = "it is there"
    GONE = "it is gone for sure"
    UNKNOWN = "nothing is known from here"


@dataclass(frozen=True)
class Owner:
    """What a process says of itself in a lock.

    Attributes:
        host, pid, since: for people.
        place: the boot, PID namespace and time namespace in which the number is its own; None: not known.
        started: when it started, in ticks since boot.
        slurm_job, slurm_restart: of the job it is in, if it is in one.
    """

    host: str
    pid: int
    since: str
    place: str | None = None
    started: int | None = None
    slurm_job: str | None = None
    slurm_restart: int = 0

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        stat = _stat(os.getpid())
        return cls(
            socket.gethostname(),
            os.getpid(),
            time.strftime("%Y-%m-%d %H:%M:%S"),
            place_here(),
            stat[1] if stat else None,
            os.environ.get("SLURM_JOB_ID"),
            int(restarts) if restarts.isdecimal() else 0,
        )

    @classmethod
    def read(cls, text: bytes) -> Owner | None:
        """What `as_text` wrote; None of anything else."""
        try:
            found = json.loads(text)
            # One flipped bit may make a process of it that is gone for sure.
            if sealed({name: value for name, value in found.items() if name != SEAL}) != text:
                return None
            owner = cls(**{name: value for name, value in found.items() if name != SEAL})
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
        texts = (owner.host, owner.since)
        may_lack = ((owner.place, str), (owner.started, int), (owner.slurm_job, str), (owner.slurm_restart, int))
        well_formed = all(type(value) is str for value in texts) and type(owner.pid) is int and 0 < owner.pid <= LARGEST_PID
        well_formed &= all(value is None or type(value) is kind for value, kind in may_lack) and owner.slurm_restart is not None
        return owner if well_formed else None

    def as_text(self) -> bytes:
        """For a lock."""
        return sealed(asdict(self))

    @property
    def fate(self) -> Fate:
        """What this process knows of it."""
        if self.place is None or self.started is None or self.host != socket.gethostname() or self.place != place_here():
            return Fate.UNKNOWN
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return Fate.GONE
        except OSError:  # somebody else's
            pass
        stat = _stat(self.pid)
        if stat is None:  # hidden from this user, or it ended just now
            return Fate.UNKNOWN
        state, started = stat
        # A zombie is but a number waiting to be read.
        return Fate.ALIVE if started == self.started and state not in "ZX" else Fate.GONE

    def is_earlier_start_of(self, other: Owner) -> bool:
        """Whether it was the same SLURM job as another process, before that job went back into the queue."""
        return self.slurm_job is not None and self.slurm_job == other.slurm_job and self.slurm_restart < other.slurm_restart


def sealed(fields: dict[str, Any]) -> bytes:
    """Fields as JSON, with a checksum of theirs."""
    return json.dumps({**fields, SEAL: zlib.crc32(json.dumps(fields).encode())}).encode()


def place_here() -> str | None:
    """Where the numbers of processes mean what they mean to this one; None where that cannot be told."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # the /proc of another namespace
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        numbers = os.readlink("/proc/self/ns/pid")
        # Ticks since boot are shifted in a time namespace; old kernels have none.
        ticks = os.readlink("/proc/self/ns/time") if os.path.lexists("/proc/self/ns/time") else ""
    except (OSError, ValueError):
        return None
    return f"{boot} {numbers} {ticks}" if boot else None


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start of a process, as /proc has them."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
        # The name of the program stands in brackets and may hold anything.
        fields = text[text.rindex(b")") + 1 :].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
