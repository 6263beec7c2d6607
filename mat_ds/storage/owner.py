"""Identifies the process that holds a lock, and tells whether it still exists.

A process ID is only meaningful within one boot and one PID namespace (containers have their own, though they may share a host
name). IDs are reused, so a process is also identified by its start time in kernel ticks since boot, which do not depend on any
clock that can be set. If this process is not provably in the same boot and namespace, nothing is known of the other.
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
from typing import Annotated, Any

from pydantic import Field, TypeAdapter


class Fate(Enum):
    """What is known of a process."""

    ALIVE = "it is there"
    GONE = "it is gone for sure"
    UNKNOWN = "nothing is known from here"


@dataclass(frozen=True)
class Owner:
    """What a process writes about itself into a lock.

    Attributes:
        host, pid, since: shown to users.
        place: boot, PID namespace and time namespace in which `pid` is valid; None if unknown.
        started: start time of the process, in ticks since boot.
        slurm_job, slurm_restart: the SLURM job's ID and restart count, if there is one.
    """

    host: str
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    since: str
    place: str | None = None
    started: int | None = None
    slurm_job: str | None = None
    slurm_restart: int = 0

    @classmethod
    def me(cls) -> Owner:
        """The current process."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "")
        stat = process_stat(os.getpid())
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
        """Parses what `as_text` wrote; None if it is anything else."""
        try:
            owner = TypeAdapter(cls).validate_json(text, strict=True)
        except ValueError:
            return None
        # without the checksum, one flipped bit could name a process that certainly does not exist
        return owner if owner.as_text() == text else None

    def as_text(self) -> bytes:
        """As JSON with a checksum."""
        return sealed(asdict(self))

    @property
    def fate(self) -> Fate:
        """Whether this process can tell that the owner is alive or gone."""
        if self.place is None or self.started is None or self.host != socket.gethostname() or self.place != place_here():
            return Fate.UNKNOWN
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return Fate.GONE
        except OSError:  # another user's process
            pass
        stat = process_stat(self.pid)
        if stat is None:  # hidden from this user, or just ended
            return Fate.UNKNOWN
        state, started = stat
        # A zombie (Z) or dead (X) process counts as gone.
        return Fate.ALIVE if started == self.started and state not in "ZX" else Fate.GONE

    def is_earlier_start_of(self, other: Owner) -> bool:
        """Whether it was the same SLURM job before that was requeued."""
        return self.slurm_job is not None and self.slurm_job == other.slurm_job and self.slurm_restart < other.slurm_restart


def sealed(fields: dict[str, Any]) -> bytes:
    """Fields as JSON, with their checksum."""
    return json.dumps({**fields, "crc32": zlib.crc32(json.dumps(fields).encode())}).encode()


def place_here() -> str | None:
    """An identifier of this boot, PID namespace and time namespace; None if it cannot be determined."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc belongs to another namespace
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        numbers = os.readlink("/proc/self/ns/pid")
        # A time namespace shifts the ticks since boot; old kernels have none.
        ticks = os.readlink("/proc/self/ns/time") if os.path.lexists("/proc/self/ns/time") else ""
    except (OSError, ValueError):
        return None
    return f"{boot} {numbers} {ticks}" if boot else None


def process_stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time (ticks) of a process from /proc; None if it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
        # The program's name is in brackets and may contain anything.
        fields = text[text.rindex(b")") + 1 :].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
