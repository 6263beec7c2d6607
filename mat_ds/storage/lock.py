"""A lock that lets one job at a time use a run directory, across machines, wrong clocks and network disks.

The lock is a folder, `run.lock/`, that contains one file, the lease. A lease is named by a random token that is never used
again. Three operations, each atomic, also over NFS (v3 and later):

- Take the lock: make a private folder that contains the lease, and rename it to `run.lock`. The disk refuses if a non-empty
  folder of that name exists. So of several jobs that try, one succeeds, and none while another holds the lock.
- Remove an expired lease: delete `run.lock/<its token>`. A job may be paused arbitrarily long between finding the lease expired
  and deleting it: since no other lease ever has that name, it deletes that lease or nothing.
- Release the lock: delete one's own lease, then the folder; the disk refuses the latter if another lease is in it by then.

So there are never two leases in the lock, and a lease is deleted only by its owner or after it expired. It expires

- at once, if its owner is proved to be gone: same boot, same PID namespace, no such process (`mat_ds.storage.owner`);
- never, while that process is proved to exist, even if it is stopped;
- otherwise, when it has not changed for LEASE_SECONDS (`mat_ds.storage.leases`). Its owner touches it every BEAT_SECONDS.
  SLURM declaring a node dead proves nothing, since the tasks of a disconnected node may go on; a requeued job waits as well.

The last rule can be wrong: an owner that was suspended, or cut off from the disk, may come back. Therefore the owner calls
`check` before it writes: it touches its lease, and stops (`Displaced`) if the lease is gone, or could not be touched for almost
LEASE_SECONDS. No file system can close the gap between `check` and the write after it; it does harm only if the owner is
stopped right there for longer than LEASE_SECONDS.

filelock's SoftFileLease is not used: it swaps two names, which NFS cannot; it discards an unreadable lease after two seconds,
but never an empty one; and its lease expires even while the owner is proved to exist.
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
# Give up after this many attempts on a disk that neither accepts nor refuses.
ATTEMPTS = 100
SHORTEST_PAUSE = 0.005
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class RunLock:
    """Held by rank 0 from before the first file of a run is written until after the last.

    Attributes:
        name: of the lock folder; a directory may have several kinds of locks.
        folder: the directory, once it is locked.
        token: the name of its lease, unique.
        in_the_way: the lease that kept `take` from succeeding.
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
        """Takes the lock of a run directory now; creates the directory if needed.

        Raises:
            UserError: if another job holds it, or may hold it.
        """
        if not self.take(folder):
            assert self.in_the_way
            raise _taken(folder / self._name, self.in_the_way)

    def take(self, folder: Path) -> bool:
        """Takes the lock if it is free.

        Returns:
            False if it is not known yet whether the holder is gone, or the holder is this SLURM job before it was
            requeued; call again about every second.

        Raises:
            UserError: if another job holds it, or the disk refuses.
        """
        me = Owner.me()
        if (holder := self._try(folder, me)) is None:
            return True
        if holder.alive and not (holder.owner and holder.owner.is_earlier_start_of(me)):
            raise _taken(folder / self._name, holder)
        return False

    def wait(self, folder: Path) -> None:
        """Waits for the lock; for holders that keep it only briefly."""
        pause = SHORTEST_PAUSE
        while self._try(folder, Owner.me()):
            time.sleep(pause)
            pause = min(2 * pause, LOOK)

    def _try(self, folder: Path, me: Owner) -> Lease | None:
        """Takes the lock, or returns the lease that is in the way."""
        lock = folder.absolute() / self._name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(ATTEMPTS):
                self.in_the_way = _clear(lock)
                if self.in_the_way:
                    return self.in_the_way
                if self._enter(lock, me):
                    self.folder, self._held, self._lost, self._stop = folder, True, False, threading.Event()
                    threading.Thread(target=self._keep_beating, args=(self._stop,), name="lock", daemon=True).start()
                    return None
        except OSError as error:
            raise UserError(Problem("output_dir", str(folder), f"its lock {lock} cannot be taken: {error}",
                                    "make room, or name a folder that can be written to")) from None  # fmt: skip
        raise UserError(Problem("output_dir", str(folder), f"its lock {lock} cannot be taken, although nobody holds it",
                                f"delete {lock}, or name another folder"))  # fmt: skip

    def _enter(self, lock: Path, me: Owner) -> bool:
        """Puts a lease into a free lock; False if another job was faster."""
        self.token = uuid.uuid4().hex
        aside, self._lease = lock.with_name(f".{lock.name}.{self.token}"), lock / self.token
        began = _now()
        try:
            aside.mkdir()
            (aside / self.token).write_bytes(me.as_text())
            aside.rename(lock)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if self._lease.exists():  # over NFS a rename may succeed although its reply was lost
                pass
            elif error.errno in OCCUPIED:
                with suppress(OSError):  # some disks do not rename onto an existing folder even if it is empty
                    lock.rmdir()
                return False
            else:
                raise
        self._renewed = began
        return True

    def _keep_beating(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_SECONDS) and not self._lost:
            self._renew()

    def _renew(self) -> None:
        """Touches the lease by its own name, so another job's lease is never touched."""
        began = _now()
        try:
            os.utime(self._lease)
            self._renewed = began
        except OSError as error:
            # Other errors may be temporary, such as a disk that is offline.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE) and self._held:
                self._lost = True

    def check(self) -> None:
        """Call before anything is written to the run directory: verifies that this job still holds the lock.

        Raises:
            Displaced: if it does not, or if that can no longer be verified.
        """
        if not self._held:
            return
        self._renew()
        if self._lost:
            others = leases_in(self._lease.parent)
            by = f"{others[0]} has taken it over" if others else "another job took it over, or somebody deleted its lock"
            raise Displaced(f"{self.folder} no longer belongs to this job: {by}")
        if (seconds := _now() - self._renewed) > LEASE_SECONDS - BEAT_SECONDS:
            raise Displaced(
                f"{self._lease} could not be touched for {seconds:.0f} s, and another job may have taken {self.folder} over"
            )

    def check_from_memory(self) -> None:
        """`check` for frequent calls: only asks the disk if the lease was not touched recently."""
        lately = 0 <= _now() - self._renewed < LEASE_SECONDS - 2 * BEAT_SECONDS
        if self._held and (self._lost or not lately):
            self.check()

    def release(self) -> None:
        """Releases the lock if it was taken; another job's lease stays."""
        self._stop.set()
        if self._held:
            self._held = False
            with suppress(OSError):
                self._lease.unlink()
            with suppress(OSError):
                self._lease.parent.rmdir()


def holder_of(folder: Path, name: str = LOCK) -> Lease | None:
    """The lease of the job that holds, or may hold, a run directory (see its `alive`); None if it is free.

    Args:
        name: of the lock.
    """
    return next((lease for lease in leases_in(folder.absolute() / name) if not lease.expired), None)


def known_holder_of(folder: Path, name: str = LOCK) -> Lease | None:
    """The lease of the job that certainly holds a run directory; may watch it for up to LEASE_SECONDS."""
    while (holder := holder_of(folder, name)) and not holder.alive:
        time.sleep(LOOK)
    return holder


def _clear(lock: Path) -> Lease | None:
    """Deletes expired leases; returns one that is not expired, or None."""
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
            if lease.path != lock:  # this program makes no folders here; keep it, as its owner may miss it
                lease.path.rename(lock.with_name(f".{lock.name}.{uuid.uuid4().hex}.aside"))
    return None


def _now() -> float:
    """Seconds on a clock that also counts time in suspend and is never set."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _taken(lock: Path, holder: Lease) -> UserError:
    wait = "" if holder.alive else f" (or was: it is known to be gone when its lease has not changed for {LEASE_SECONDS:.0f} s)"
    fix = f"wait for it or stop it; if you are sure that it is gone, delete {lock}"
    return UserError(Problem("output_dir", str(lock.parent), f"another job uses it: {holder}{wait}", fix))
