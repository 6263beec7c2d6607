"""DeepSpeed's compiled extensions: where they lie, and locks that the killed builds of others left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from mat_ds.doctor.rows import Row, passed, warned

# One compiler call takes a minute or two, and writes its file at the end.
QUIET_SECONDS = 600


def check_deepspeed() -> Iterator[Row]:
    """DeepSpeed's device, its compiled operators, and what is left of builds."""
    import torch

    from mat_ds.engine.inventory import accelerator, prebuilt_operators

    device, backend = accelerator()
    if torch.cuda.is_available() and device == "cpu":
        yield warned("accelerator", "cpu, though torch sees GPUs", "unset DS_ACCELERATOR to train on them")
    else:
        yield passed("accelerator", f"{device}; ranks will talk over {backend}")
    yield passed("operators", f"prebuilt: {', '.join(prebuilt_operators()) or 'none'}; mat_ds needs none, and compiles nothing")
    yield from check_locks(extensions_folder())


def extensions_folder() -> Path:
    """Where torch, and DeepSpeed through it, compiles extensions."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen)
    from torch.utils.cpp_extension import get_default_build_root

    return Path(get_default_build_root())


def check_locks(folder: Path) -> Iterator[Row]:
    """A build holds a file `lock` in its folder, with no word on who it is; whoever comes later waits for it to go."""
    locks = [lock for lock in sorted(folder.rglob("lock")) if lock.is_file()]
    for lock in locks:
        minutes = (time.time() - last_change(lock.parent)) / 60
        if process := builder(lock.parent):
            yield passed("locks", f"{lock.parent} is being compiled by process {process}")
        elif minutes * 60 > QUIET_SECONDS:
            yield warned(
                "locks",
                f"{lock} is stale: no process here builds, no file has changed for {minutes:.0f} minutes. "
                "mat_ds does not mind; other programs would wait for ever",
                f"rm {lock}",
            )
        else:
            yield warned(
                "locks",
                f"{lock} is {minutes:.0f} minutes old, and no process here builds: another machine may, if "
                "it shares the folder",
                f"if none does: rm {lock}",
            )
    if not locks:
        yield passed("locks", f"none in {folder}")


def last_change(folder: Path) -> float:
    """When a file of a build was last written, in seconds of the clock."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))


def builder(folder: Path) -> int | None:
    """A process of this machine that works in a folder, as ninja and the compilers it starts do."""
    import psutil

    for process in psutil.process_iter(["pid", "cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]) == folder.resolve():
            return int(process.info["pid"])
    return None
