"""Tests the links between ranks: whether sums over all ranks are right, and how fast they are; and what to say of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median
from threading import Thread
from typing import TYPE_CHECKING

from mat_ds.doctor.differences import Answer, where
from mat_ds.doctor.rows import Row, brief, failed, passed, warned
from mat_ds.terminal.units import scaled

if TYPE_CHECKING:
    import torch

    from mat_ds.ranks.world import World

MIB = 2**20
BYTES = {"cuda": 64 * MIB, "cpu": 16 * MIB}
# Integers up to this are exact in fp32, fp16 and bf16.
EXACT = 128
SMALL_ROUNDS, LARGE_ROUNDS, PAIR_ROUNDS = 20, 3, 3
GB = 1e9
SLOW_LATENCY = 0.02
SLOW_BANDWIDTH = 0.2 * GB
# A link is slow if its speed is below this share of the median of all links of its kind.
SLOW_SHARE = 0.5


@dataclass
class Links:
    """The measurements of one rank.

    Attributes:
        stage: the part of the test that it has reached.
        error: why the test stopped there; empty if it came to its end.
        wrong: texts such as `fp16 (rank 3)`: in this precision, the part of this rank was wrong in a sum.
        latency: seconds for a sum of one number.
        size, seconds: bytes of a large sum, and the seconds it took.
        pairs: (first rank, second rank, bytes per second) of each link, on the first of the two ranks.
    """

    stage: str = "forming the group"
    error: str = ""
    wrong: list[str] = field(default_factory=list)
    latency: float = 0.0
    size: int = 0
    seconds: float = 0.0
    pairs: list[tuple[int, int, float]] = field(default_factory=list)


def neighbours(size: int) -> list[tuple[int, int]]:
    """The pairs of ranks that are next to each other in the ring that NCCL builds."""
    return [(rank, (rank + 1) % size) for rank in range(size if size > 2 else size - 1)]


def longest(world: World, seconds: float) -> float:
    """Seconds that the whole test may take if one collective may take `seconds`. Most take much less; one may time out."""
    return 2 * seconds + world.size


def try_links(links: Links, world: World, precisions: list[str], seconds: float) -> bool:
    """Runs the test in a thread, because a collective that hangs cannot be cancelled. Every rank must call this.

    Args:
        links: is filled with results while the test runs.
        world: this rank.
        precisions: those in which sums are tested, the same on all ranks.
        seconds: how long one collective may take.

    Returns:
        Whether the test has ended. If not, its thread still hangs, and the process can only be ended by os._exit.
    """
    # Makes NCCL raise an exception after a time-out. Otherwise its watchdog kills the process, and the report is lost.
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
    """Ranks whose part of a sum over all ranks is wrong.

    Each rank sends numbers in a part of the tensor that belongs to it alone, and zeros elsewhere, so that an error can be
    attributed to its rank.
    """
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
    _timed(lambda: distributed.all_reduce(many), device)  # the first also creates buffers and connections
    links.seconds = median(_timed(lambda: distributed.all_reduce(many), device) for _ in range(LARGE_ROUNDS))


def _measure_pair(links: Links, pair: tuple[int, int], world: World, device: torch.device) -> None:
    """Measures sending and receiving between two ranks, while all others wait so that they do not use the same hardware."""
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
    """Calls `work` and returns the seconds until the device has finished it."""
    import torch

    started = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - started


def check_links(answers: Sequence[Answer], results: dict[int, Links], choice: str) -> Iterator[Row]:
    """Yields the rows about the test of the links.

    Args:
        answers: of all ranks.
        results: measurements by rank, without the ranks that have not answered.
        choice: the shell command that selects another network interface; empty if there is none.
    """
    silent = [answer.rank for answer in answers if answer.rank not in results]
    broken = {rank: links for rank, links in results.items() if links.error}
    if silent:
        yield failed("self-test", f"{where(answers, silent)} died in it, or hangs", _advice(answers, choice))
    stages: dict[tuple[str, str], list[int]] = {}
    for rank, links in broken.items():
        stages.setdefault((links.stage, links.error), []).append(rank)
    for (stage, error), ranks in stages.items():
        yield failed("self-test", f"{where(answers, ranks)} stopped at {stage} ({error})", _advice(answers, choice))
    if wrong := sorted({part for links in results.values() for part in links.wrong}):
        yield failed("sums", f"wrong in {', '.join(wrong)}", "take that rank's GPU or node out, and run this again")
    if silent or broken:
        return
    if not wrong:
        yield passed("sums", "of all ranks are exact")
    yield from _whole(results[0], choice, len({answer.host for answer in answers}) > 1)
    yield from _pairs(answers, [pair for links in results.values() for pair in links.pairs])


def _advice(answers: Sequence[Answer], choice: str) -> str:
    """Settings that often help, the most likely first."""
    several, cards = len({answer.host for answer in answers}) > 1, any(answer.cards for answer in answers)
    steps = [
        *(["export NCCL_P2P_DISABLE=1 (GeForce cards)"] if cards else []),
        *([choice] if several and choice else []),
        *(["export NCCL_IB_DISABLE=1"] if cards and several else []),
        *(["export NCCL_DEBUG=INFO to see where NCCL stops"] if cards else ["see the output of that rank"]),
    ]
    return "try, one by one: " + "; ".join(steps) if len(steps) > 1 else steps[0]


def _whole(links: Links, choice: str, several: bool) -> Iterator[Row]:
    interface = f"interface ({choice})" if choice else "interface"
    found = f"a sum of one number takes {1e3 * links.latency:.2f} ms"
    if links.latency > SLOW_LATENCY:
        yield warned("latency", found, f"look for busy CPUs and a slow {interface}")
    else:
        yield passed("latency", found)
    speed = links.size / links.seconds
    found = f"a sum of {links.size // MIB} MiB: {_speed(speed)}; 1 GB of gradients takes {GB / speed:.1f} s"
    if speed < SLOW_BANDWIDTH:
        rest = "fewer nodes, fewer and larger updates, or method.chains=per_node" if several else "or fewer and larger updates"
        yield warned("bandwidth", found, f"use a faster {interface}, {rest}")
    else:
        yield passed("bandwidth", found)


def _speed(bytes_per_second: float) -> str:
    return f"{scaled(bytes_per_second, 'B')}/s"


def _pairs(answers: Sequence[Answer], pairs: list[tuple[int, int, float]]) -> Iterator[Row]:
    """Yields a row about the slowest link within a node and the slowest between nodes."""
    hosts = {answer.rank: answer.host for answer in answers}
    kinds = {"links in a node": True, "links between nodes": False}
    for name, inside in kinds.items():
        speeds = [pair for pair in pairs if (hosts[pair[0]] == hosts[pair[1]]) is inside]
        if not speeds:
            continue
        first, second, slowest = min(speeds, key=lambda pair: pair[2])
        usual = median(speed for *_, speed in speeds)
        at = f"{first} and {second} ({' and '.join(dict.fromkeys((hosts[first], hosts[second])))})"
        found = f"ranks {at}: {_speed(slowest)}"
        if len(speeds) > 1:
            found = f"the slowest of {len(speeds)} is {found}, their median {_speed(usual)}"
        if slowest < SLOW_SHARE * usual:
            yield warned(name, found, "look at that slot's PCIe lanes, cable or switch port, or leave that node out")
        else:
            yield passed(name, found)
