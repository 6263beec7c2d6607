"""Reads and checks the launcher's environment variables. With inconsistent ones, ranks would wait for each other until a
time-out."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from shlex import quote

from mat_ds.config.packaged import HOME
from mat_ds.errors import Problem, raise_if_any

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
# Variables that must be set if there are several ranks.
ALWAYS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Variables of launchers that do not set RANK, with their number of processes.
OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
FIX = (
    f"start the ranks with `deepspeed`, torchrun or, under SLURM, `srun {quote(str(HOME / 'slurm' / 'rank.sh'))} python ...`, "
    "or set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_SIZE, MASTER_ADDR and MASTER_PORT for each; for one process unset them all"
)
# Attempts to resolve a name while the name service fails temporarily, and seconds for all of them.
ATTEMPTS, RESOLVE_SECONDS = 3, 20


def launcher_variables() -> tuple[int, int, int, int]:
    """The values of RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_SIZE; a single process if they are not set.

    Raises:
        UserError: naming every variable that cannot be right.
    """
    raise_if_any(_malformed())
    size = _number("WORLD_SIZE", 1)
    local_size = _number("LOCAL_SIZE", _number("LOCAL_WORLD_SIZE", size))
    found = _number("RANK", 0), size, _number("LOCAL_RANK", 0), local_size
    raise_if_any([*_missing(size), *_impossible(*found), *_nowhere(size)])
    return found


def launcher_problems() -> Iterator[Problem]:
    """Yields a problem if several processes were started together, but each believes to be the only one."""
    for variable in OTHER_LAUNCHERS:
        count = os.environ.get(variable, "1")
        if "RANK" not in os.environ and count.isdecimal() and int(count) > 1:
            yield Problem(variable, count, "several processes were started, and RANK does not tell them apart", FIX)


def card_problems(local_rank: int) -> Iterator[Problem]:
    """Yields a problem if this machine has GPUs, but none for this rank. Imports torch, as nothing else here does."""
    from torch import cuda

    if cuda.is_available() and local_rank >= (cards := cuda.device_count()):
        yield Problem(
            "LOCAL_RANK",
            local_rank,
            f"this process sees {cards} GPUs, and a rank takes the one of its number",
            "start as many ranks as there are GPUs, and let each see them all",
        )


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def _malformed() -> Iterator[Problem]:
    for name in NUMBERS:
        value = os.environ.get(name, "0")
        if not (value.isascii() and value.isdecimal() and len(value) < 10):
            yield Problem(name, value, "is not a whole number", FIX)


def _missing(size: int) -> Iterator[Problem]:
    for name in ALWAYS:
        if size > 1 and name not in os.environ:
            yield Problem(name, None, f"is not set, and WORLD_SIZE={size} says that there are several ranks", FIX)


def _impossible(rank: int, size: int, local_rank: int, local_size: int) -> Iterator[Problem]:
    if size == 0:
        yield Problem("WORLD_SIZE", 0, "there is at least one rank", FIX)
    elif rank >= size:
        said = f"WORLD_SIZE={size}" if "WORLD_SIZE" in os.environ else "without WORLD_SIZE there is one rank, and"
        yield Problem("RANK", rank, f"{said} counts them from 0", FIX)
    sizes = {name: os.environ[name] for name in ("LOCAL_SIZE", "LOCAL_WORLD_SIZE") if name in os.environ}
    name = next(iter(sizes), "LOCAL_RANK")
    if len({int(value) for value in sizes.values()}) > 1:
        yield Problem(name, local_size, f"LOCAL_WORLD_SIZE={sizes['LOCAL_WORLD_SIZE']} says otherwise", FIX)
    elif sizes and not 1 <= local_size <= max(size, 1):
        yield Problem(name, local_size, f"of {size} ranks, as WORLD_SIZE has it, that many are not on one node", FIX)
    if local_rank >= max(local_size, 1):
        yield Problem("LOCAL_RANK", local_rank, f"there are {local_size} ranks on this node, counted from 0", FIX)


def _nowhere(size: int) -> Iterator[Problem]:
    """Yields a problem if the ranks cannot reach MASTER_ADDR and MASTER_PORT."""
    port = _number("MASTER_PORT", 1 if size > 1 else 0)
    if not (1 if size > 1 else 0) <= port < 2**16:
        yield Problem("MASTER_PORT", port, "is not a port: ports go from 1 to 65535", FIX)
    if (address := os.environ.get("MASTER_ADDR")) is not None and (reason := unresolved(address)):
        fix = "name the node of rank 0 as this one knows it" if size > 1 else "unset it: one process meets nobody"
        yield Problem("MASTER_ADDR", address, reason, fix)


def unresolved(address: str) -> str | None:
    """Why a host name cannot be resolved; None if it can. Takes limited time, even if the name service hangs."""
    reasons = ["the name service does not answer"]

    def resolve() -> None:
        for attempt in range(ATTEMPTS):
            try:
                if not address.strip():
                    raise OSError("is empty")
                socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
                reasons.clear()
                return
            except (OSError, UnicodeError) as error:
                reasons[:] = [f"no machine has this name: {getattr(error, 'strerror', None) or error}"]
                if getattr(error, "errno", None) != socket.EAI_AGAIN:
                    return
            if attempt < ATTEMPTS - 1:
                time.sleep(1)

    asking = threading.Thread(target=resolve, daemon=True)
    asking.start()
    asking.join(RESOLVE_SECONDS)
    return reasons[0] if reasons else None
