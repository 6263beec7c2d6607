"""How far the trainings of a sweep or of several seeds are, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from mat_ds.runs.options import RunConfig, budget_steps
from mat_ds.storage.events import Record
from mat_ds.terminal.display import Display
from mat_ds.terminal.units import duration


class Pace:
    """A bar on a terminal, and words for the lines of a log file. A context manager.

    Args:
        display: shows the bar.
        what: `trial` or `seed`.
        total: number of trainings.
        run: their options, as far as all have the same.
        ended: counts those that have ended, whoever trained them.
    """

    def __init__(self, display: Display, what: str, total: int, run: RunConfig, ended: Callable[[], int]):
        self._what, self._total, self._run, self._ended = what, total, run, ended
        self._began, self._before = time.monotonic(), ended()
        self._here = self._before
        self._bar = display.course(f"{total} {what}s", total, self._before)

    def __enter__(self) -> Pace:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def begins(self, number: int) -> str:
        """Which training begins and when all will have ended, such as `trial 3 of 20, 12.5 min left`.

        Args:
            number: of the training, counted from 1.
        """
        named = f"{self._what} {number} of {max(self._total, number)}"
        self._bar.rename(named)
        self._here = self._ended()
        self._bar.move(self._here)
        done, rest = self._here - self._before, self._total - self._here
        if done <= 0 or rest <= 0:
            return named
        left = (time.monotonic() - self._began) / done * rest
        return f"{named}, {duration(left)} left"

    def follow(self, latest: Record | None) -> None:
        """Moves the bar, given the latest outer step in the log of the training that has begun.

        Called twice a second, so it reads nothing: trainings of others that end meanwhile are counted when the next one begins.
        """
        if latest:
            if steps := budget_steps(self._run) or self._run.train.max_steps:
                share = latest["step"] / steps
            else:
                share = latest.get("epoch", 0.0) / self._run.train.epochs
            self._bar.move(min(self._here + min(share, 1.0), self._total))
