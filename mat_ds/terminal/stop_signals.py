"""Remembers signals that ask the process to stop, so that it can save before it ends."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

# Sent by SLURM, torchrun, deepspeed, a closing terminal and Ctrl-C before they kill; some sites never send USR1.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
ANSWER = b"\nsaving; again to quit\n"


class StopSignals:
    """A context in which signals to stop are remembered instead of ending the process.

    Ctrl-C is answered at once; a second one ends the process. Signals that the process was started to ignore, as by `nohup`,
    stay ignored.

    Args:
        answers: whether this process answers; of several ranks at a terminal one does.

    Attributes:
        received: name of the first signal; None if there was none. A launcher sends others after it.
    """

    def __init__(self, answers: bool = True) -> None:
        self.received: str | None = None
        self._answers = answers
        self._before: dict[int, Any] = {}
        self._woken: tuple[int, int] | None = None

    def __enter__(self) -> StopSignals:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._remember)
        if self._answers:
            reading, writing = os.pipe()
            os.set_blocking(writing, False)
            self._woken = writing, signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            threading.Thread(target=_answer, args=(reading,), name="answer to Ctrl-C", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._woken:
            writing, before = self._woken
            signal.set_wakeup_fd(before)
            os.close(writing)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


def _answer(reading: int) -> None:
    """Answers the first Ctrl-C. The main thread calls Python's handlers only after the operation that it is in, which may take
    seconds."""
    answered = False
    with open(reading, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] == signal.SIGINT and not answered:
                answered = True
                with suppress(OSError):
                    os.write(2, ANSWER)
