"""The protocol of a tracker, which takes the records of a run."""

from __future__ import annotations

from typing import Protocol

from mat_ds.tracking.events import Record


class Tracker(Protocol):
    """Takes the records of a run; only rank 0 has one that does anything."""

    def log(self, record: Record) -> None:
        """One record: what happened under `event`, and the outer step it belongs to under `step`."""

    def close(self) -> None:
        """Nothing comes after this."""


class NullTracker:
    """The tracker of all ranks but the first."""

    def log(self, record: Record) -> None:
        pass

    def close(self) -> None:
        pass
