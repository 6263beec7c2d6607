"""Being told to stop, and checkpoints that are due: what one rank knows of, and what all ranks agree to act on."""

from __future__ import annotations

import time

from mat_ds.engine.distributed import agreed
from mat_ds.errors import Interrupted
from mat_ds.orders import Orders


class Agenda:
    """What interrupts training.

    A signal may reach one rank or all of them, at different moments; no rank acts on it before all have agreed.

    Args:
        orders: what this rank has been told.
        save_minutes: how long may pass between two checkpoints, by rank 0's clock; None: as long as it takes.
        keeps_time: whether this rank is rank 0.
    """

    def __init__(self, orders: Orders, save_minutes: float | None, keeps_time: bool):
        self._orders = orders
        self._save_seconds = 60 * save_minutes if save_minutes and keeps_time else float("inf")
        self._saved_at = time.monotonic()

    def told_to_stop(self) -> bool:
        """Whether any rank has been. Every rank must ask."""
        return agreed(self._orders.received is not None)[0]

    @property
    def reason(self) -> str:
        """What has told the ranks to stop, as far as this one knows."""
        return self._orders.received or "a signal to another rank"

    def leave_if_told(self) -> None:
        """Raises `Interrupted` on every rank, if any has been told to stop. Every rank must ask."""
        if self.told_to_stop():
            raise Interrupted(self.reason)

    def told_to_stop_or_save(self) -> tuple[bool, bool]:
        """Whether any rank has been told to stop, and whether a checkpoint is due by the clock. Every rank must ask."""
        stop, due = agreed(self._orders.received is not None, time.monotonic() - self._saved_at >= self._save_seconds)
        return stop, due

    def saved(self) -> None:
        """Starts the clock of the next checkpoint."""
        self._saved_at = time.monotonic()
