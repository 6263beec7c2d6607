"""Checks this machine's clock against the file server's and against the dates of installed packages."""

from __future__ import annotations

import sysconfig
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mat_ds.doctor.rows import Row, passed, warned

SKEW_SECONDS = 2.0
SET_IT = "set the clock: timedatectl set-ntp true, or ask who runs the machine"


def check_clock(folder: Path) -> Iterator[Row]:
    """Checks the clock of this machine and that of a disk.

    Args:
        folder: where a run's files will be written.
    """
    now, (installed, what) = time.time(), newest_package()
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
    if now < installed - SKEW_SECONDS:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(installed))
        yield warned("time", f"{shown}, before {what} was installed ({date})", SET_IT)
    else:
        yield passed("time", shown)
    skew = disk_skew(folder)
    if abs(skew) > SKEW_SECONDS:
        yield warned(
            "time of the disk",
            f"{folder} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's clock",
            f"{SET_IT}, and that of the file server",
        )


def newest_package() -> tuple[float, str]:
    """Date of the newest of the important packages, in seconds since 1970, and its name."""
    places = {"the newest package": Path(sysconfig.get_path("purelib"))}
    for name in ("torch", "deepspeed", "transformers"):
        if (spec := find_spec(name)) and spec.origin:
            places[name] = Path(spec.origin)
    return max((path.stat().st_mtime, name) for name, path in places.items())


def disk_skew(folder: Path) -> float:
    """Seconds by which the disk's clock is ahead of this machine's.

    A file server stamps new files with its own clock.
    """
    before = time.time()
    with tempfile.NamedTemporaryFile(prefix=".mat-ds-doctor-", dir=folder) as file:
        file.write(b"what time is it?")
        file.flush()
        stamped = Path(file.name).stat().st_mtime
    after = time.time()
    return stamped - before if stamped < before else max(0.0, stamped - after)
