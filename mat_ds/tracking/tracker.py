"""Records a run's events."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from mat_ds.errors import Displaced, Interrupted
from mat_ds.storage.events import EventLog, Record
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show
from mat_ds.tracking.destination import mirror_uri
from mat_ds.tracking.mirror import REST, outlives_this_process, start_mirror
from mat_ds.tracking.mirrored import own_id, sync_command

# Seconds to wait for the mirror in silence; between two looks at it.
MOMENT, GLANCE = 2.0, 0.05
# Seconds to wait for it where it would not outlive this process: the launcher kills what is left 30 s after a rank that did not
# finish, and the next start of such a run delivers the rest.
LIMIT, SHORT_LIMIT = REST + 10, 10.0


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
        self._keeps, self._step, self._refused, self._finished = keeps, 0, False, False
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
        self._finished = kind is None
        status = "FINISHED" if kind is None else "KILLED" if told else "FAILED"
        with suppress(OSError):  # on a full disk the problem has been reported already
            self._log.log({"event": "end", "step": self._step, "status": status})
            self._log.close()
        self._log = None
        if self._mirror and self._mirror.stdin:
            self._mirror.stdin.close()

    def settle(self, say: Callable[[str], object] = show, told_to_leave: Callable[[], bool] = lambda: False) -> None:
        """Lets the mirror deliver the rest: in the background, or waits where that would be killed. Call last.

        Args:
            say: shows a line of information.
            told_to_leave: whether to wait no longer.
        """
        if not self._mirror or not self.run:
            return
        lasts, again = outlives_this_process(), sync_command(self.run, self._uri)
        code = self._wait(MOMENT, told_to_leave)
        if code is None and not lasts:
            say(f"delivering to MLflow; Ctrl-C leaves it to `{again}`")
            code = self._wait(LIMIT if self._finished else SHORT_LIMIT, told_to_leave)
        if code is None and lasts:
            say(f"MLflow gets the rest of this run in the background; `{again}` makes sure of it")
        elif code != 0:
            self._tell("not everything of this run is in MLflow yet", self.run)

    def _wait(self, seconds: float, told_to_leave: Callable[[], bool]) -> int | None:
        """The mirror's exit code; None if it has not ended."""
        assert self._mirror
        deadline = time.monotonic() + seconds
        while (code := self._mirror.poll()) is None and time.monotonic() < deadline and not told_to_leave():
            time.sleep(GLANCE)
        return code

    def _tell(self, what: str, run: RunDirectory) -> None:
        log = run.tracking_log
        why = f" (for the reason see {log.name})" if log.is_file() and log.stat().st_size else ""
        show(f"tracking: {what}{why}: `{sync_command(run, self._uri)}` delivers them", sys.stderr)
