"""Ranks that talk before, beside and after their collectives: through the launcher's key-value store, which needs neither
NCCL nor gloo and lets rank 0 say who is missing."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mat_ds.ranks.world import World

POLL_SECONDS = 0.02
KNOCK_SECONDS = 0.5


def await_server(address: str, port: int, seconds: float) -> None:
    """Waits until somebody listens there. The store's own client would wait too, and then print pages of C++ frames.

    Raises:
        OSError: if nobody does in time; it says whether the door is shut, or nothing answers, or the name is unknown.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=max(KNOCK_SECONDS, deadline - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() + KNOCK_SECONDS > deadline:
                raise
            time.sleep(KNOCK_SECONDS)


class Meeting:
    """The store at MASTER_ADDR:MASTER_PORT, which rank 0 serves unless torchrun does. What is said in it is JSON.

    Nothing here waits inside the store: a client that waits is closed to the process's other threads.

    Raises:
        Exception: from the constructor, if the store cannot be served, or not be reached in time.
    """

    def __init__(self, world: World, seconds: float):
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        self._rank, attempt = world.rank, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        serves = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if not serves:
            await_server(address, port, seconds)
        # The process group that comes later finds the server of its own process, since both are multi-tenant.
        self._server = TCPStore(
            address, port, is_master=serves, timeout=timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
        self._store = PrefixStore(f"mat-ds doctor {attempt}", self._server)

    def say(self, what: str, value: Any = None) -> None:
        """Leaves this rank's `value` for whoever asks."""
        self._store.set(f"{what}/{self._rank}", json.dumps(value))

    def hear(self, what: str, ranks: Iterable[int], seconds: float) -> dict[int, Any]:
        """What each of `ranks` has said, waiting for up to `seconds`; a rank that has not is not in it."""
        waiting, heard, deadline = list(ranks), {}, time.monotonic() + seconds
        while True:
            for rank in [rank for rank in waiting if self._store.check([f"{what}/{rank}"])]:
                heard[rank] = json.loads(self._store.get(f"{what}/{rank}"))
                waiting.remove(rank)
            if not waiting or time.monotonic() > deadline:
                return heard
            time.sleep(POLL_SECONDS)
