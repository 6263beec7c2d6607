"""Makes all ranks agree on stop requests, lost run directories and due checkpoints that only one rank knows of."""

from __future__ import annotations

import time
from collections.abc import Callable

from mat_ds.errors import Displaced, Interrupted
from mat_ds.ranks.collectives import agreed
from mat_ds.terminal.stop_signals import StopSignals


class StopRequests:
    """Decides when training is interrupted.

    A signal may reach one rank or all of them at different times; no rank acts on it before all have agreed.

    Args:
        stop_signals: received by this rank.
        save_minutes: maximum time between two checkpoints, by rank 0's clock; None: no limit.
        keeps_time: whether this rank is rank 0.
        still_ours: raises `Displaced` if another job took the run directory; called every step, so it must be cheap.
    """

    def __init__(
        self,
        stop_signals: StopSignals,
        save_minutes: float | None,
        keeps_time: bool,
        still_ours: Callable[[], None] = lambda: None,
    ):
        self._stop_signals, self._still_ours = stop_signals, still_ours
        self._save_seconds = 60 * save_minutes if save_minutes and keeps_time else float("inf")
        self._saved_at = time.monotonic()

    def _agreed(self, *more: bool) -> tuple[bool, ...]:
        displaced = None
        try:
            self._still_ours()
        except Displaced as error:
            displaced = error
        lost, *found = agreed(displaced is not None, self._stop_signals.received is not None, *more)
        if lost:
            raise displaced or Displaced("another job has taken the run directory")
        return tuple(found)

    @property
    def reason(self) -> str:
        """The signal that told the ranks to stop, as far as this rank knows."""
        return self._stop_signals.received or "a signal to another rank"

    def leave_if_told(self) -> None:
        """Raises `Interrupted` on every rank if any was told to stop, and `Displaced` if any lost the directory. Every rank
        must call it."""
        if self._agreed()[0]:
            raise Interrupted(self.reason)

    def told_to_stop_or_save(self) -> tuple[bool, bool]:
        """Whether any rank was told to stop, and whether a checkpoint is due by the clock. Every rank must call it; raises
        `Displaced` on every rank if one lost the directory."""
        stop, due = self._agreed(time.monotonic() - self._saved_at >= self._save_seconds)
        return stop, due

    def saved(self) -> None:
        """Restarts the clock of the next checkpoint."""
        self._saved_at = time.monotonic()
