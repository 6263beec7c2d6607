"""What takes the records of a run."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from mat_ds.errors import Displaced, Interrupted, UserError
from mat_ds.storage.events import EventLog, Record
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show
from mat_ds.tracking.destination import is_remote, mirror_uri
from mat_ds.tracking.identity import delivered, own_id
from mat_ds.tracking.mirror import PATIENCE, start_mirror
from mat_ds.tracking.playback import count


class Tracker:
    """The event log of a run, and beside it the mirror; on all ranks but the first it does nothing.

    To be entered around the run: however that ends, the last event says so.

    Args:
        keeps: whether this rank keeps the log.
        still_ours: raises `Displaced` if the run directory is another job's by now; then nothing is written there any more.

    Attributes:
        run: the directory of the run, once it has begun, where this rank keeps its log.
    """

    def __init__(self, keeps: bool, still_ours: Callable[[], None] = lambda: None):
        self.run: RunDirectory | None = None
        self._still_ours = still_ours
        self._keeps, self._step, self._refused = keeps, 0, False
        self._log: EventLog | None = None
        self._mirror: subprocess.Popen[bytes] | None = None
        self._uri: str | None = None

    def begin(self, run: RunDirectory, step: int, uri: str | None) -> None:
        """Opens the log of a run that begins, or goes on after `step`, and starts the mirror.

        Args:
            uri: `tracking.uri`.
        """
        if not self._keeps:
            return
        self.run, self._step, self._uri = run, step, mirror_uri(run.path, uri)
        own_id(run)
        self._log = EventLog(run.events, step)
        if self._uri:
            try:
                self._mirror = start_mirror(run, self._uri)
            except OSError as error:  # no memory or no processes left: no reason not to train
                self._tell(f"not mirrored to MLflow ({error})", run)

    def log(self, record: Record) -> None:
        """One record: what happened under `event`, and the outer step it belongs to under `step`."""
        if not self._log:
            return
        self._step = record["step"]
        try:
            self._still_ours()
            self._log.log(record)
            self._refused = False
        except OSError as error:  # whether training goes on where the disk is full is for a checkpoint to say
            if not self._refused:
                show(f"*** WARNING: events.jsonl cannot be written, tried again later: {error}", sys.stderr)
            self._refused = True
        except Displaced:  # on this rank alone, while others wait for it; they agree on it where all are asked
            self._abandon()

    def _abandon(self) -> None:
        """Leaves the log and the mirror to the job that has taken the run over."""
        if self._log:
            self._log.abandon()
            self._log = None
        if self._mirror:
            self._mirror.kill()
            self._mirror.wait()
            self._mirror = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._log:
            return
        try:
            self._still_ours()
        except Displaced:
            return self._abandon()
        told = kind is not None and issubclass(kind, (Interrupted, KeyboardInterrupt))
        status = "FINISHED" if kind is None else "KILLED" if told else "FAILED"
        with suppress(OSError):  # where the disk is full, what went wrong has been said
            self._log.log({"event": "end", "step": self._step, "status": status})
            self._log.close()
        self._log = None
        if self._mirror and self._mirror.stdin:
            self._mirror.stdin.close()

    def settle(self) -> None:
        """Gives the mirror a bounded time to deliver the rest, and says what it could not; to be called last of all."""
        if not self._mirror or not self.run:
            return
        events = 0
        try:
            code = self._mirror.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._mirror.kill()
            code = self._mirror.wait()
        if code:
            with suppress(OSError, UserError):  # of a run whose folder is gone, say
                events = count(self.run.events, delivered(self.run, str(self._uri)))
            self._tell(f"{f'{events} events' if events else 'some files'} of this run are not in MLflow yet", self.run)

    def _tell(self, what: str, run: RunDirectory) -> None:
        # A folder's word for a server is not taken where credentials are set.
        there = f" --uri {shlex.quote(self._uri)}" if self._uri and is_remote(self._uri) else ""
        again = f"mat-ds sync {shlex.quote(str(run.path))}{there}"
        show(f"tracking: {what} ({run.tracking_log.name} says why): `{again}` delivers them", sys.stderr)
