"""Chooses the port at which the ranks of one node meet."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from mat_ds.errors import Problem, UserError

# The first and the last of the ports that the system gives to outgoing connections, and Linux's defaults for them.
CONNECTIONS, DEFAULT = Path("/proc/sys/net/ipv4/ip_local_port_range"), (32_768, 60_999)
FIRST, END = 10_000, 65_536


def free_port() -> int:
    """A random free port that the system gives to no connection.

    Ranks listen at their port only after seconds of imports. Meanwhile any process may be given a port of the system's range.

    Raises:
        UserError: if none is free.
    """
    try:
        first, last = map(int, CONNECTIONS.read_text().split())
    except (OSError, ValueError):
        first, last = DEFAULT
    ports = range(FIRST, first) or range(max(FIRST, last + 1), END) or range(FIRST, END)
    # The seed of a run must not choose: then all would try the same port.
    for port in random.SystemRandom().sample(ports, len(ports)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    fix = "end what listens there, or choose one: --launcher 'deepspeed --master_port PORT'"
    raise UserError(Problem("--master_port", None, f"no port from {ports[0]} to {ports[-1]} is free", fix))
