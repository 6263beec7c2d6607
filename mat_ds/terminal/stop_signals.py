"""Remembers signals that ask the process to stop, so that it can save before it ends."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

# Sent by SLURM, torchrun, deepspeed, a closing terminal and Ctrl-C before they kill; some sites never send USR1.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """A context in which signals to stop are remembered instead of ending the process.

    A second Ctrl-C ends the process at once. Signals that the process was started to ignore, as by `nohup`, stay ignored.

    Attributes:
        received: name of the last signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
