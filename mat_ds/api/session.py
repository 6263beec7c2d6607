"""Restores what a run changes in its process, when it is called from Python instead of a command."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any

from mat_ds.errors import Displaced, ExitCode, Interrupted, NonFiniteError, Problem, SaveError, UserError
from mat_ds.ranks.exits import configure_process
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World


@contextmanager
def session() -> Iterator[World]:
    """A context that yields this rank's `World`, and then restores what it says of deterministic kernels.

    Raises:
        UserError: if this is not the main thread (only that receives signals), or the launcher's variables are invalid.
    """
    import torch

    if threading.current_thread() is not threading.main_thread():
        raise UserError(Problem("thread", threading.current_thread().name, "is not the main thread, which alone gets Ctrl-C",
                                "call mat_ds from the main thread, or start a process"))  # fmt: skip
    strict, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    world = World.from_environment()
    try:
        configure_process()
        share_processors(world.local_size)
        yield world
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)


def as_overrides(options: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Python options as dotted command-line arguments, so that they are validated in the same way."""
    for name, value in options.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from as_overrides(value, f"{key}.")
        else:
            yield f"{key}={_value_text(key, value)}"


def _value_text(key: str, value: Any) -> str:
    if isinstance(value, (str, PathLike)):
        return fspath(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        raise UserError(Problem(key, value, f"is a {type(value).__name__}, which an option cannot have",
                                "pass a number, a text, a list of them, True, False or None")) from None  # fmt: skip


def raising(work: Any, world: World, advice: str) -> ExitCode:
    """Calls `work` and lets exceptions through; one raised on this rank alone is first announced to the others."""
    try:
        work()
    except (UserError, Interrupted, Displaced, SaveError, NonFiniteError):  # every rank raises these
        raise
    except Exception as error:
        if world.size > 1:
            from mat_ds.ranks.lookout import announce_failure

            announce_failure(error, world.rank)
        raise
    return ExitCode.OK
