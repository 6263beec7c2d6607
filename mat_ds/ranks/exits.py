"""Shared by all commands: process-wide settings, and the mapping of failures to exit codes."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from mat_ds.errors import Displaced, ExitCode, Interrupted, NonFiniteError, SaveError, UserError
from mat_ds.terminal.display import show

if TYPE_CHECKING:  # `mat-ds doctor` must start even if psutil is broken
    from mat_ds.ranks.world import World

# Seconds that other ranks wait while local rank 0 prints. The launcher kills all ranks when the first one exits.
REPORT_SECONDS = 20


def configure_process() -> None:
    """Applies process-wide settings."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")


def compute_deterministically(warn_only: bool = False) -> None:
    """Enables bit-identical results on a GPU too, with slower kernels. Call before the device is used.

    Args:
        warn_only: whether an operation without a deterministic kernel warns instead of failing.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=warn_only)


def as_rank(work: Callable[[World], ExitCode]) -> ExitCode:
    """Calls `work` as the rank that the launcher's variables say; what is wrong with its input is printed once."""
    from mat_ds.ranks.world import World

    world = World()
    try:
        world = World.from_environment()
        configure_process()
        return work(world)
    except UserError as error:
        return report_problems(error, world)


def attempt(work: Callable[[], object], world: World | None = None, advice: str = "") -> ExitCode:
    """Calls `work`; turns an error into a message and an exit code.

    Args:
        work: called by all ranks; it may return an exit code.
        world: this rank; default: the only one.
        advice: printed if a number is not finite.
    """
    from mat_ds.ranks.world import World

    world = world or World()
    try:
        code = work()
        return code if isinstance(code, ExitCode) else ExitCode.OK
    except UserError as error:
        return report_problems(error, world)
    except Interrupted as error:
        said, code = f"\ninterrupted by {error}", ExitCode.REQUEUE
    except Displaced as error:
        said = f"\nstopped: {error}. This job has written nothing there since; what it had saved before is there."
        code = ExitCode.DISPLACED
    except SaveError as error:
        said, code = refused(error), ExitCode.FAILED
    except NonFiniteError as error:
        said, code = f"\nstopped: {error}. {advice}", ExitCode.NON_FINITE
    except Exception as error:
        from mat_ds.ranks.lookout import announce_failure

        announce_failure(error, world.rank)
        return ExitCode.FAILED
    if world.rank == 0:
        show(said, sys.stderr)
    return code


def refused(error: SaveError) -> str:
    """The message when a disk error ends a command."""
    return f"\nstopped: {error}. What was there before is whole: make room and start it again, a run with train.resume=auto."


def report_problems(error: UserError, world: World) -> ExitCode:
    """Prints the problems on local rank 0; other ranks wait meanwhile."""
    if world.local_rank == 0:
        show(f"\n{error}", sys.stderr)
    else:
        time.sleep(REPORT_SECONDS)
    return ExitCode.USER_ERROR
