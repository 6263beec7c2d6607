"""Messages between ranks through torch's key-value store.

They need neither NCCL nor gloo, so rank 0 can find out which ranks are missing.
"""

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
    """Waits until a server listens at an address. The store's own client would print pages of C++ frames after a time-out.

    Raises:
        OSError: if there is none in time. Its message tells a refused connection, no answer and an unknown name apart.
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
    """A connection to the store at MASTER_ADDR:MASTER_PORT. Rank 0 serves it, or torchrun does. Values are sent as JSON.

    No method waits inside the store, since a client that waits blocks the other threads of its process.

    Args:
        world: this rank.
        seconds: how long to wait for the store.

    Raises:
        Exception: if rank 0 cannot serve the store, or another rank cannot reach it in time.
    """

    def __init__(self, world: World, seconds: float):
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        self._rank, attempt = world.rank, os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        serves = world.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if not serves:
            await_server(address, port, seconds)
        # Multi-tenant, so that the process group that is created later can use the same server.
        self._server = TCPStore(
            address, port, is_master=serves, timeout=timedelta(seconds=seconds), wait_for_workers=False, multi_tenant=True
        )
        self._store = PrefixStore(f"mat-ds doctor {attempt}", self._server)

    def say(self, what: str, value: Any = None) -> None:
        """Stores this rank's value under the name `what`."""
        self._store.set(f"{what}/{self._rank}", json.dumps(value))

    def hear(self, what: str, ranks: Iterable[int], seconds: float) -> dict[int, Any]:
        """Reads the values that ranks have stored.

        Args:
            what: the name of the value.
            ranks: the ranks to wait for.
            seconds: how long to wait.

        Returns:
            The values by rank, without the ranks that have not stored one in time.
        """
        waiting, heard, deadline = list(ranks), {}, time.monotonic() + seconds
        while True:
            for rank in [rank for rank in waiting if self._store.check([f"{what}/{rank}"])]:
                heard[rank] = json.loads(self._store.get(f"{what}/{rank}"))
                waiting.remove(rank)
            if not waiting or time.monotonic() > deadline:
                return heard
            time.sleep(POLL_SECONDS)
