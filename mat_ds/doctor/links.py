"""The collective self-test: whether sums over all ranks are right, and how fast the links between them are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING

from mat_ds.doctor.rows import brief

if TYPE_CHECKING:
    import torch

    from mat_ds.ranks.world import World

MIB = 2**20
BYTES = {"cuda": 64 * MIB, "cpu": 16 * MIB}
# Integers up to this are exact in fp32, fp16 and bf16.
EXACT = 128
SMALL_ROUNDS, LARGE_ROUNDS, PAIR_ROUNDS = 20, 3, 3


@dataclass
class Links:
    """What one rank measured.

    Attributes:
        stage: what it did last.
        error: why it got no further; empty if it went through.
        wrong: precisions in which a sum was wrong, each with the ranks whose part of it was.
        latency: seconds of the sum of one number.
        size, seconds: bytes of a large sum and the seconds it took.
        pairs: (this rank, next rank, bytes per second) of the link between them, on the first of the two.
    """

    stage: str = "forming the group"
    error: str = ""
    wrong: list[str] = field(default_factory=list)
    latency: float = 0.0
    size: int = 0
    seconds: float = 0.0
    pairs: list[tuple[int, int, float]] = field(default_factory=list)


def neighbours(size: int) -> list[tuple[int, int]]:
    """The links of the ring that NCCL builds, each once."""
    return [(rank, (rank + 1) % size) for rank in range(size if size > 2 else size - 1)]


def longest(world: World, seconds: float) -> float:
    """Seconds that the whole self-test may take, if a collective may take `seconds`: one that fails, and many that do not."""
    return 2 * seconds + world.size


def try_links(links: Links, world: World, precisions: list[str], seconds: float) -> bool:
    """Runs the self-test; every rank must call it.

    A collective that hangs cannot be called off, so it runs beside this thread, which waits no longer than the test can take.

    Args:
        links: takes what is found, as it is found.
        world: this rank.
        precisions: those whose sums are tested, the same on all ranks.
        seconds: how long any one collective may take.

    Returns:
        Whether the test has come to an end; where it has not, the process must be left by os._exit.
    """
    # Waits that end with an exception instead of a process that NCCL's watchdog kills, this report with it.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    thread = Thread(target=_run, args=(links, world, precisions, timedelta(seconds=seconds)), daemon=True)
    thread.start()
    thread.join(longest(world, seconds))
    if thread.is_alive() and not links.error:
        links.error = f"no end within {longest(world, seconds):.0f} s"
    return not thread.is_alive()


def _run(links: Links, world: World, precisions: list[str], timeout: timedelta) -> None:
    try:
        from mat_ds.engine.group import process_group

        with process_group(world, timeout) as device:
            for precision in precisions:
                links.stage = f"a sum in {precision}"
                links.wrong += [f"{precision} (rank {rank})" for rank in wrong_parts(precision, world, device)]
            _measure_all(links, device)
            for pair in neighbours(world.size):
                links.stage = f"ranks {pair[0]} and {pair[1]} to each other"
                _measure_pair(links, pair, world, device)
            links.stage = "taking leave"
    except Exception as error:
        links.error = links.error or brief(error)


def wrong_parts(precision: str, world: World, device: torch.device) -> list[int]:
    """Ranks whose part of a sum does not arrive as it was sent: each has elements of its own, and zeros elsewhere."""
    import torch
    from torch import distributed

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    place = torch.arange(EXACT * world.size, device=device)
    expected, owner = 1 + place % EXACT, place // EXACT
    total = (expected * (owner == world.rank)).to(dtype)
    distributed.all_reduce(total)
    return sorted(set(owner[total != expected.to(dtype)].tolist()))


def _measure_all(links: Links, device: torch.device) -> None:
    import torch
    from torch import distributed

    links.stage = "a sum of one number"
    number = torch.zeros(1, device=device)
    links.latency = median(_timed(lambda: distributed.all_reduce(number), device) for _ in range(SMALL_ROUNDS))
    links.size = BYTES.get(device.type, BYTES["cpu"])
    links.stage = f"a sum of {links.size // MIB} MiB"
    many = torch.zeros(links.size // 4, device=device)
    _timed(lambda: distributed.all_reduce(many), device)  # the first takes buffers and connections
    links.seconds = median(_timed(lambda: distributed.all_reduce(many), device) for _ in range(LARGE_ROUNDS))


def _measure_pair(links: Links, pair: tuple[int, int], world: World, device: torch.device) -> None:
    """There and back between two ranks while the others wait, since links share what is beneath them."""
    import torch
    from torch import distributed

    first, second = pair
    distributed.all_reduce(torch.zeros(1, device=device))
    if world.rank not in pair:
        return
    many = torch.zeros(links.size // 4, device=device)

    def there_and_back() -> None:
        if world.rank == first:
            distributed.send(many, second)
            distributed.recv(many, second)
        else:
            distributed.recv(many, first)
            distributed.send(many, first)

    _timed(there_and_back, device)
    seconds = min(_timed(there_and_back, device) for _ in range(PAIR_ROUNDS)) / 2
    if world.rank == first:
        links.pairs.append((first, second, links.size / seconds))


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done the work."""
    import torch

    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started
