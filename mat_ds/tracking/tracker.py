"""Records a run's events."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from mat_ds.errors import Displaced, Interrupted
from mat_ds.storage.events import EventLog, Record
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show
from mat_ds.tracking.destination import is_remote, mirror_uri
from mat_ds.tracking.mirror import PATIENCE, start_mirror
from mat_ds.tracking.mirrored import log_line, own_id


class Tracker:
    """Writes a run's event log and starts its mirror; does nothing on other ranks than the first.

    A context manager around the run: when it exits, it logs an end event.

    Args:
        keeps: whether this rank writes the log.
        still_ours: raises `Displaced` if another job has taken the run directory; then nothing more is written.

    Attributes:
        run: the run directory, on the rank that writes the log, once the run has begun.
    """

    def __init__(self, keeps: bool, still_ours: Callable[[], None] = lambda: None):
        self.run: RunDirectory | None = None
        self._still_ours = still_ours
        self._keeps, self._step, self._refused = keeps, 0, False
        self._log: EventLog | None = None
        self._mirror: subprocess.Popen[bytes] | None = None
        self._uri: str | None = None

    def begin(self, run: RunDirectory, step: int, uri: str | None) -> None:
        """Opens the log of a run that begins, or resumes after `step`, and starts the mirror.

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
            except OSError as error:  # out of memory or processes: train without the mirror
                self._tell(f"not mirrored to MLflow ({error})", run)

    def log(self, record: Record) -> None:
        """Logs a record with its name under `event` and its outer step under `step`."""
        if not self._log:
            return
        self._step = record["step"]
        try:
            self._still_ours()
            self._log.log(record)
            self._refused = False
        except OSError as error:  # a full disk only stops training when a checkpoint cannot be saved
            if not self._refused:
                show(f"*** WARNING: events.jsonl cannot be written, tried again later: {error}", sys.stderr)
            self._refused = True
        except Displaced:  # only this rank knows yet; all ranks agree to stop at the next check
            self._abandon()

    def _abandon(self) -> None:
        """Leaves log and mirror to the job that took over the run."""
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
        with suppress(OSError):  # on a full disk the problem has been reported already
            self._log.log({"event": "end", "step": self._step, "status": status})
            self._log.close()
        self._log = None
        if self._mirror and self._mirror.stdin:
            self._mirror.stdin.close()

    def settle(self) -> None:
        """Waits a limited time for the mirror to deliver the rest, and reports what is missing. Call last."""
        if not self._mirror or not self.run:
            return
        try:
            code = self._mirror.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._mirror.kill()
            code = self._mirror.wait()
            log_line(self.run, f"not delivered in time: the mirror was stopped {PATIENCE:.0f} s after the run had ended")
        if code:
            self._tell("not everything of this run is in MLflow yet", self.run)

    def _tell(self, what: str, run: RunDirectory) -> None:
        # sync does not trust a folder's address if credentials are set, so the address is given explicitly
        there = f" --uri {shlex.quote(self._uri)}" if self._uri and is_remote(self._uri) else ""
        again = f"mat-ds sync {shlex.quote(str(run.path))}{there}"
        show(f"tracking: {what} (for the reason see {run.tracking_log.name}): `{again}` delivers them", sys.stderr)
