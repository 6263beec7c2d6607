"""Starts the ranks of one machine, as `deepspeed --num_gpus N` does, in place of this process."""

from __future__ import annotations

import base64
import json
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from mat_ds.errors import Problem
from mat_ds.ranks.ports import free_port
from mat_ds.terminal.process import run_process

# What the `deepspeed` program starts on each node. Unlike that program it passes signals on to the ranks and waits for them. It
# is run by this module, so that Ctrl-C while it imports DeepSpeed, for seconds, is no traceback.
DEEPSPEEDS, LAUNCHER = "deepspeed.launcher.launch", "mat_ds.ranks.local_launch"
VISIBLE = "CUDA_VISIBLE_DEVICES"
FLAG = "--ranks"


def ranks_problems(ranks: int) -> Iterator[Problem]:
    """Yields the reasons why this process cannot start ranks."""
    if "RANK" in os.environ:
        reason = f"this process is a rank already (RANK={os.environ['RANK']}), started by a launcher"
        yield Problem(FLAG, ranks, reason, "leave it out under a launcher")
    elif (cards := _visible_cards()) is not None and len(cards) < ranks:
        reason = f"{VISIBLE}={os.environ[VISIBLE]} shows {len(cards)} of the GPUs, and each rank takes one"
        yield Problem(FLAG, ranks, reason, f"pass {FLAG} {len(cards)}, or show more")


def without_ranks(arguments: Sequence[str]) -> list[str]:
    """A command line without `--ranks N`."""
    kept, words = list[str](), iter(arguments)
    for word in words:
        if word == FLAG:
            next(words, None)
        elif not word.startswith(f"{FLAG}="):
            kept.append(word)
    return kept


def launch_command(ranks: int, script: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that starts the ranks and ends with the exit code of the first that fails.

    Args:
        ranks: how many.
        script: that each of them runs.
        arguments: of the script.
    """
    numbers = list(range(ranks)) if (cards := _visible_cards()) is None else cards[:ranks]
    world = base64.urlsafe_b64encode(json.dumps({"localhost": numbers}).encode()).decode()
    meeting = ["--master_addr=127.0.0.1", f"--master_port={free_port()}"]
    return [sys.executable, "-u", "-m", LAUNCHER, f"--world_info={world}", *meeting, "--log_level=critical",
            str(script), *arguments]  # fmt: skip


def become_ranks(ranks: int, script: Path, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the launcher of the ranks, which so has its signals, its streams and its exit code."""
    command = launch_command(ranks, script, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)


def _visible_cards() -> list[int | str] | None:
    """The GPUs that the user lets this process see; None if that is not said, or none."""
    names = [word.strip() for word in os.environ.get(VISIBLE, "").split(",")]
    return [int(name) if name.isdecimal() else name for name in names if name and name != "-1"] or None


def main(arguments: Sequence[str]) -> int:
    """Runs DeepSpeed's launcher with the command line of this process."""
    import torch  # as the launcher does

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it has found no other
    runpy.run_module(DEEPSPEEDS, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    run_process(main)
