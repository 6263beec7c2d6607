"""Reports a failure once for all ranks, through the TCP store that connected them.

Each rank has a thread, its lookout, that every second writes a sign of life to the store and checks whether another rank has
failed. The rank that fails first prints its error, records it in the store, and leaves its groups once the others have read it.
The others exit without a traceback of their own: with gloo their collective fails when the first rank leaves. With NCCL it
would only fail at its time-out, and aborting the communicator would let the main thread compute with garbage; so a process that
has not exited some seconds after reading the record is ended at once. Files that it was writing do not have their final names
yet.

A rank that was killed leaves no record. Then the first rank whose collective fails names the ranks without signs of life. If
the store is gone too (rank 0 hosts it, except under torchrun), rank 1 and the first rank of each node report that. With NCCL, a
collective with a killed rank ends at its time-out, when NCCL's own watchdog aborts the process and prints the last message.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from mat_ds.errors import ExitCode
from mat_ds.ranks.failure import Failure, say

# Seconds between two signs of life, and seconds without one after which a rank counts as gone.
BEAT, SILENCE = 1.0, 5.0
# Seconds for the other ranks to read a failure; that a rank waits until its own is reported; that it then has to exit.
HEARING, TELLING, LEAVE = 5.0, 15.0, 20.0

CLAIM, RECORD, HEARD = "lookout/claim", "lookout/record", "lookout/heard"
UNKNOWN = "ended or stopped without a word: killed? out of memory? suspended? network cut?"


class StoreGoneError(ConnectionError):
    """The process that hosts the store has ended."""


class Lookout(threading.Thread):
    """The thread of one rank. Only this thread uses the store, which does not answer while its host is stopped.

    Args:
        rank, size, local_rank: of this process.
    """

    def __init__(self, rank: int, size: int, local_rank: int):
        super().__init__(name="lookout", daemon=True)
        self._rank, self._size, self._local_rank = rank, size, local_rank
        c10d: Any = dist.distributed_c10d
        self._store = c10d._get_default_store().clone()
        # This connection closes when the store's host ends. Using the lost store would make torch print a page of C++.
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        self._line = socket.create_connection(address, HEARING)
        self._woken = threading.Event()
        self._failure: Failure | None = None
        self._told = False
        self._end = threading.Timer(LEAVE, _leave_at_once)
        self._end.daemon = True

    # Called by the main thread.

    def tell(self, failure: Failure) -> None:
        """Reports what ended this rank, unless another rank's failure did; takes limited time."""
        self._failure = failure
        self._woken.set()
        self.join(TELLING)
        if not self._told:
            self._speak_alone(failure)
        self._let_end()

    def dismiss(self) -> None:
        """Ends the thread, after the process has left its groups."""
        self._woken.set()
        self._end.cancel()
        self.join(HEARING)
        if not self.is_alive():
            self._line.close()

    # Run by the thread.

    def run(self) -> None:
        with suppress(StoreGoneError, dist.DistError):
            self._ask("set", f"lookout/host/{self._rank}", socket.gethostname())
            while not self._woken.wait(BEAT):
                self._ask("add", f"lookout/beat/{self._rank}", 1)
                if self._ask("check", [RECORD]):
                    return self._hear()
            if self._failure:
                self._tell(self._failure)

    def _tell(self, failure: Failure) -> None:
        if failure.kind == "collective":
            time.sleep(BEAT)  # the store may close a moment after its host has left its groups
        if failure.kind == "notified" or self._ask("add", CLAIM, 1) > 1:
            return self._hear_of(failure)
        silent = self._silent() if failure.kind == "collective" else []
        what = f"rank {self._rank} on {failure.host} failed: {failure.summary}"
        if silent:
            what = f"{', '.join(f'rank {rank} on {self._host(rank)}' for rank in silent)} {UNKNOWN}"
        self._say(f"stopped: {what}" if silent else failure.text)
        self._ask("set", RECORD, json.dumps({"host": failure.host, "what": what}))
        self._wait_until(lambda: self._ask("add", HEARD, 0) >= self._size - 1 - len(silent), HEARING)

    def _hear_of(self, failure: Failure) -> None:
        """Waits for the record of the rank that reports; if that rank died first, reports this rank's own failure."""
        if self._wait_until(lambda: self._ask("check", [RECORD]), SILENCE + HEARING):
            self._hear()
        else:
            self._say(failure.text)

    def _hear(self) -> None:
        record = json.loads(self._ask("get", RECORD))
        self._ask("add", HEARD, 1)
        # On that host the error has been printed already.
        if self._local_rank == 0 and record["host"] != socket.gethostname():
            say(f"stopped: {record['what']}")
        self._told = True
        self._let_end()

    def _silent(self) -> list[int]:
        """The ranks without signs of life."""
        beats = [f"lookout/beat/{rank}" for rank in range(self._size)]
        before = [self._ask("add", beat, 0) for beat in beats]
        time.sleep(SILENCE)
        return [r for r, beat in enumerate(beats) if r != self._rank and self._ask("add", beat, 0) == before[r]]

    def _host(self, rank: int) -> str:
        key = f"lookout/host/{rank}"
        return self._ask("get", key).decode() if self._ask("check", [key]) else "its host"

    def _speak_alone(self, failure: Failure) -> None:
        """Reports a failure when the store cannot be reached."""
        if failure.kind == "own":
            say(failure.text)
        elif self._rank == 1 or self._local_rank == 0:
            say(f"stopped: rank 0 {UNKNOWN}")

    def _say(self, text: str) -> None:
        say(text)
        self._told = True

    def _let_end(self) -> None:
        with suppress(RuntimeError):  # the timer is running already
            self._end.start()

    def _ask(self, operation: str, *arguments: Any) -> Any:
        if select.select([self._line], [], [], 0)[0]:
            raise StoreGoneError
        return getattr(self._store, operation)(*arguments)

    @staticmethod
    def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (met := condition()) and time.monotonic() < deadline:
            time.sleep(BEAT / 10)
        return met


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.FAILED)


_on_duty: Lookout | None = None


@contextmanager
def on_lookout(rank: int, size: int, local_rank: int) -> Iterator[None]:
    """A context in which this rank's lookout runs; enter it with the process group and leave it afterwards."""
    global _on_duty
    _on_duty = lookout = Lookout(rank, size, local_rank)
    lookout.start()
    try:
        yield
    finally:
        _on_duty = None
        lookout.dismiss()


def announce_failure(error: Exception, rank: int) -> None:
    """Reports what ended this rank, once for all ranks."""
    failure = Failure.of(error, rank)
    # The launcher terminates the other ranks as soon as one exits.
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if _on_duty:
        _on_duty.tell(failure)
    else:
        say(failure.text)
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
