"""Times several cases alternately, so that all see the same load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Figure:
    """One number of the table.

    Attributes:
        value: the number; None if the machine was too busy.
        details: its measurements, and the spread over the rounds.
        refusal: why there is no number.
    """

    value: float | None
    details: dict[str, Any] = field(default_factory=dict)
    refusal: str | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether it was timed, not counted."""
        return "ratio_cpu" in self.details


@dataclass(frozen=True)
class Round:
    """Wall-clock seconds, and processor seconds of this process."""

    wall: float
    cpu: float


def alternate(cases: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1) -> dict[str, list[Round]]:
    """Seconds of each case in each round: A B A B ...

    Args:
        cases: what to time, by name.
        rounds: number of counted rounds.
        warm: number of uncounted rounds before them.
    """
    found: dict[str, list[Round]] = {name: [] for name in cases}
    for number in range(-warm, rounds):
        for name, case in cases.items():
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            case()
            wait()
            if number >= 0:
                found[name].append(Round(time.perf_counter() - wall, time.process_time() - cpu))
    return found


def wait() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(times: Mapping[str, list[Round]], over: str, under: str) -> Figure:
    """The time of the case `over` divided by that of `under`: the median of the rounds' ratios.

    On a CPU this is the ratio of processor times, which other processes disturb least, on a GPU that of wall-clock times.
    There is none if more processes want to run than there are cores.
    """
    clock = "wall" if torch.cuda.is_available() else "cpu"
    pairs = list(zip(times[over], times[under], strict=True))
    ratios = {by: sorted(getattr(a, by) / getattr(b, by) for a, b in pairs) for by in ("cpu", "wall")}
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    details = {
        **{f"ratio_{by}": round(median(found), 3) for by, found in ratios.items()},
        **{f"spread_{by}": [round(found[0], 3), round(found[-1], 3)] for by, found in ratios.items()},
        **{f"ms_{by}": {name: milliseconds(times[name], by) for name in times} for by in ("cpu", "wall")},
        "rounds": len(pairs),
        "load": round(load, 2),
    }
    busy = f"the load is {load:.1f} on {cores} cores" if load > cores else None
    return Figure(None if busy else round(median(ratios[clock]), 3), details, busy)


def milliseconds(rounds: list[Round], by: str) -> float:
    """The median in milliseconds."""
    return round(1000 * median(getattr(one, by) for one in rounds), 3)
