"""One job at a time in a run directory, whatever its machines, their clocks and its disk do.

The lock is a folder, `run.lock/`, and the lease is the one file in it, named by a token that is drawn for it and never used
again. Three operations, each of which the disk does at once or not at all, also over NFS (v3 and later):

- To take the lock: make a folder of one's own with the lease in it, and rename that to `run.lock`. The disk refuses where
  there is a folder of that name that is not empty. So of any number that try, one gets in, and none while another is in.
- To clear away a lease that has expired: delete `run.lock/<its token>`. Whoever found it expired may be paused for a year
  before it does so: what it deletes is that lease or nothing, as no other has that name.
- To give the lock back: delete one's own lease, then the folder, which the disk refuses if another lease is in it by then.

So there are never two leases in the lock, and none is deleted but by its owner, or by one that found it expired. It expires

- at once, if its owner is proved to be gone: same boot, same PID namespace, no such process (`mat_ds.storage.owner`);
- never, if that process is proved to be there, even stopped;
- if neither can be proved, when it has looked the same, look after look, for LEASE_SECONDS (`mat_ds.storage.leases`). Its owner
  touches it every BEAT_SECONDS. That SLURM has given a node up proves nothing, as the tasks of a node that is merely cut off
  train on: a job that it put back into the queue waits like any other.

The last can be wrong: an owner that was suspended, or cut off from the disk, comes back. Therefore the owner asks before all
that it writes whether the lease is still there (`check`): it touches that file, which fails if it was cleared away, and one
that cannot be touched counts as lost before another may take it for expired. An owner that has been displaced stops
(`Displaced`). What is left is the time between such a question and the one write or rename that follows it: no disk has an
operation that would close it, and only an owner that is stopped right there, for longer than the lease, can do harm.

filelock's SoftFileLease is not used. It takes over by exchanging two names, which NFS has not, and falls back to moving
aside what it finds there; it gives up a lease that it cannot read after two seconds, and never one that is empty, as a
full disk leaves it; its lease also expires while its owner is proved to be there; and what would stop a displaced owner,
`check`, it leaves to its user.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path

from mat_ds.errors import Displaced, Problem, UserError
from mat_ds.storage.leases import BEAT_SECONDS, LEASE_SECONDS, LOOK, Lease, leases_in
from mat_ds.storage.owner import Owner

LOCK = "run.lock"
# A disk that answers neither yes nor no is asked no longer.
ATTEMPTS = 100
SHORTEST_PAUSE = 0.005
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class RunLock:
    """Held by rank 0 from before the first file of a run is written until after the last.

    Args:
        name: of the lock; a folder may have several kinds of holders.

    Attributes:
        folder: the directory, once it has been taken.
        token: of its lease; every lease has another.
        in_the_way: what kept `take` from knowing.
    """

    def __init__(self, name: str = LOCK) -> None:
        self.folder: Path | None = None
        self.token = ""
        self.in_the_way: Lease | None = None
        self._name, self._lease = name, Path()
        self._held, self._lost = False, False
        self._renewed = 0.0
        self._stop = threading.Event()

    def acquire(self, folder: Path) -> None:
        """Takes the lock of a run directory now, making the directory if need be.

        Raises:
            UserError: if another job is in it, or may be.
        """
        if not self.take(folder):
            assert self.in_the_way
            raise _taken(folder / self._name, self.in_the_way)

    def take(self, folder: Path) -> bool:
        """Takes the lock if it is free.

        Returns:
            False where it is not known yet whether its holder is gone, or that is this SLURM job before it was put back into
            the queue: to be asked again every second or so.

        Raises:
            UserError: if another job is in it, or the disk does not let it be taken.
        """
        me = Owner.me()
        if (holder := self._try(folder, me)) is None:
            return True
        if holder.alive and not (holder.owner and holder.owner.is_earlier_start_of(me)):
            raise _taken(folder / self._name, holder)
        return False

    def wait(self, folder: Path) -> None:
        """Takes the lock as soon as it is free, for what its holders do in no time."""
        pause = SHORTEST_PAUSE
        while self._try(folder, Owner.me()):
            time.sleep(pause)
            pause = min(2 * pause, LOOK)

    def _try(self, folder: Path, me: Owner) -> Lease | None:
        """Takes the lock, or returns what is in the way."""
        lock = folder.absolute() / self._name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                self.in_the_way = _clear(lock)
                if self.in_the_way:
                    return self.in_the_way
                if self._enter(lock, me):
                    self.folder = folder
                    self._begin_to_beat()
                    return None
        except OSError as error:
            raise UserError(Problem("output_dir", str(folder), f"its lock {lock} cannot be taken: {error}",
                                    "make room, or name a folder that can be written to")) from None  # fmt: skip
        raise UserError(Problem("output_dir", str(folder), f"its lock {lock} can neither be taken nor is it anyone's",
                                f"delete {lock}, or name another folder"))  # fmt: skip

    def _enter(self, lock: Path, me: Owner) -> bool:
        """Puts a lease into a lock that is free; False if another was faster."""
        self.token = uuid.uuid4().hex
        aside, self._lease = lock.with_name(f".{lock.name}.{self.token}"), lock / self.token
        began = _now()
        try:
            aside.mkdir()
            (aside / self.token).write_bytes(me.as_text())
            aside.rename(lock)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if self._lease.exists():  # over a network an answer may be lost, and the question asked again
                pass
            elif error.errno in OCCUPIED:
                with suppress(OSError):  # some disks rename nothing to a name that is there, be it empty
                    lock.rmdir()
                return False
            else:
                raise
        self._renewed = began
        return True

    def _begin_to_beat(self) -> None:
        self._held, self._lost, self._stop = True, False, threading.Event()
        threading.Thread(target=self._keep_beating, args=(self._stop,), name="lock", daemon=True).start()

    def _keep_beating(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        """Touches the lease; by its name, so that another's is never touched."""
        began = _now()
        try:
            os.utime(self._lease)
            self._renewed = began
        except OSError as error:
            # Anything else may pass, as a disk may come back.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE) and self._held:
                self._lost = True

    def check(self) -> None:
        """To be asked before anything is written to the run directory: whether the lock is still this job's.

        Raises:
            Displaced: if it is not, or that cannot be told any more.
        """
        if self._held:
            self._renew()
            self._complain()

    def check_from_memory(self) -> None:
        """As `check`, for what is asked often: the disk is asked only if the lease was not touched lately."""
        lately = 0 <= _now() - self._renewed < LEASE_SECONDS - 2 * BEAT_SECONDS
        if self._held and (self._lost or not lately):
            self.check()

    def _complain(self) -> None:
        assert self.folder
        if self._lost:
            others = leases_in(self._lease.parent)
            by = f"{others[0]} has taken it over" if others else "another job took it over, or somebody deleted its lock"
            raise Displaced(f"{self.folder} is not this job's any more: {by}")
        if (seconds := _now() - self._renewed) > LEASE_SECONDS - BEAT_SECONDS:
            raise Displaced(
                f"{self._lease} could not be touched for {seconds:.0f} s, and another job may have taken {self.folder} over"
            )

    def release(self) -> None:
        """Gives the lock back, if it was taken; what another holds by now stays."""
        self._stop.set()
        if self._held:
            self._held = False
            with suppress(OSError):
                self._lease.unlink()
            with suppress(OSError):
                self._lease.parent.rmdir()


def holder_of(folder: Path, name: str = LOCK) -> Lease | None:
    """Whose training, or other job by the name of its lock, is in a run directory, or may be: `alive` says which."""
    return next((lease for lease in leases_in(folder.absolute() / name) if not lease.expired), None)


def known_holder_of(folder: Path, name: str = LOCK) -> Lease | None:
    """Who is in a run directory for sure; where nothing proves it, it takes up to LEASE_SECONDS of watching."""
    while (holder := holder_of(folder, name)) and not holder.alive:
        time.sleep(LOOK)
    return holder


def _clear(lock: Path) -> Lease | None:
    """Deletes the leases that are over; returns one that is not."""
    for lease in leases_in(lock):
        if not lease.expired:
            return lease
        try:
            lease.path.unlink()
        except FileNotFoundError:
            continue
        except OSError:
            if not lease.path.is_dir() or lease.path.is_symlink():
                raise
            if lease.path != lock:  # no lease of ours is a folder; whoever put it there may miss it
                lease.path.rename(lock.with_name(f".{lock.name}.{uuid.uuid4().hex}.aside"))
    return None


def _now() -> float:
    """Seconds, those that the machine was suspended for included, and no clock that is set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _taken(lock: Path, holder: Lease) -> UserError:
    wait = "" if holder.alive else f" (or was: that shows within {LEASE_SECONDS:.0f} s, in which nothing moves there)"
    return UserError(
        Problem(
            "output_dir",
            str(lock.parent),
            f"another job is in it: {holder}{wait}",
            f"wait for it or stop it; if it is gone for sure, delete {lock}",
        )
    )
