"""What serves a run on this rank, whatever it computes."""

from __future__ import annotations

from dataclasses import dataclass

from mat_ds.storage.lock import RunLock
from mat_ds.terminal.display import Display
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.tracking.tracker import Tracker
from mat_ds.training.stopping import StopRequests


@dataclass(frozen=True)
class Services:
    """What serves a run on this rank, whatever it computes.

    Attributes:
        stop_requests: decides when it is interrupted.
        library_logs: collects what libraries log and warn of.
        display: prints what the run says itself.
        lock: keeps other jobs out of the run directory.
        tracker: records its events.
    """

    stop_requests: StopRequests
    library_logs: LibraryLogs
    display: Display
    lock: RunLock
    tracker: Tracker
