"""Turns the measurements of the links into rows: wrong sums, tests that did not end, slow links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from mat_ds.doctor.differences import Answer, where
from mat_ds.doctor.links import MIB, Links
from mat_ds.doctor.rows import Row, failed, passed, warned

GB = 1e9
SLOW_LATENCY = 0.02
SLOW_BANDWIDTH = 0.2 * GB
# A link is slow if its speed is below this share of the median of all links of its kind.
SLOW_SHARE = 0.5


def check_links(answers: Sequence[Answer], results: dict[int, Links], choice: str) -> Iterator[Row]:
    """Yields the rows about the test of the links.

    Args:
        answers: of all ranks.
        results: measurements by rank, without the ranks that have not answered.
        choice: the shell command that selects a network interface.
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
    yield from _whole(results[0], choice)
    yield from _pairs(answers, [pair for links in results.values() for pair in links.pairs])


def _advice(answers: Sequence[Answer], choice: str) -> str:
    """Settings that often help, the most likely first."""
    several, cards = len({answer.host for answer in answers}) > 1, any(answer.cards for answer in answers)
    steps = [
        *(["export NCCL_P2P_DISABLE=1 (GeForce cards)"] if cards else []),
        *([choice] if several else []),
        *(["export NCCL_IB_DISABLE=1"] if cards and several else []),
        *(["export NCCL_DEBUG=INFO to see where NCCL stops"] if cards else ["see the output of that rank"]),
    ]
    return "try, one by one: " + "; ".join(steps) if len(steps) > 1 else steps[0]


def _whole(links: Links, choice: str) -> Iterator[Row]:
    found = f"a sum of one number takes {1e3 * links.latency:.2f} ms"
    if links.latency > SLOW_LATENCY:
        yield warned("latency", found, f"look for busy CPUs and a slow interface ({choice})")
    else:
        yield passed("latency", found)
    speed = links.size / links.seconds
    found = f"a sum of {links.size // MIB} MiB: {speed / GB:.2f} GB/s; 1 GB of gradients takes {GB / speed:.1f} s"
    if speed < SLOW_BANDWIDTH:
        yield warned("bandwidth", found, f"use a faster interface ({choice}), fewer nodes, or fewer and larger updates")
    else:
        yield passed("bandwidth", found)


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
        found = f"ranks {at}: {slowest / GB:.2f} GB/s"
        if len(speeds) > 1:
            found = f"the slowest of {len(speeds)} is {found}, their median {usual / GB:.2f}"
        if slowest < SLOW_SHARE * usual:
            yield warned(name, found, "look at that slot's PCIe lanes, cable or switch port, or leave that node out")
        else:
            yield passed(name, found)
