"""How many processors this process may use, and how many threads each rank takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"


def usable_processors(root: Path = Path("/")) -> int:
    """The processors that this process may run on, or fewer if a container or a batch system grants it less of their time.

    Args:
        root: of the file system.
    """
    granted = [max(1, round(quota)) for quota in _quotas(root)]
    return min([len(os.sched_getaffinity(0)), *granted])


def _quotas(root: Path) -> Iterator[float]:
    """Yields the limits of processor time of this process's control groups, in processors."""
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number != "0" and "cpu" not in controllers.split(","):
                continue
            for group in (Path(path), *Path(path).parents):
                yield from _quota_of(root / "sys/fs/cgroup" / ("" if number == "0" else "cpu") / str(group).lstrip("/"))


def _quota_of(group: Path) -> Iterator[float]:
    """Yields the limit of one control group, of version 2 or 1, if it has any."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # `max` is no number: no limit
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # -1: no limit
            yield int(quota) / int(period)


def share_processors(ranks: int) -> None:
    """Divides the processors that this process may use among the ranks of this machine, unless OMP_NUM_THREADS is set.

    A single process that may use them all is left to torch, which takes one thread for each core. Call it before torch is
    imported, or after: then its threads are changed.
    """
    usable = usable_processors()
    if VARIABLE in os.environ or (ranks == 1 and usable == len(os.sched_getaffinity(0))):
        return
    threads = max(1, usable // ranks)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    else:
        os.environ[VARIABLE] = str(threads)
