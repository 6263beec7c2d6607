"""Creates and destroys the process groups of a run."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from mat_ds.engine.startup import lighten, release
from mat_ds.errors import PeerError, raise_if_any
from mat_ds.ranks.collectives import use_control_group
from mat_ds.ranks.launch import card_problems
from mat_ds.ranks.lookout import on_lookout
from mat_ds.ranks.watchdog import watched
from mat_ds.ranks.world import World

# A rank may have to wait while others read or write tens of gigabytes on a slow shared disk.
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
# Variables by which ranks find each other; a single process sets them itself.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(world: World, timeout: timedelta = COLLECTIVE_TIMEOUT) -> Iterator[torch.device]:
    """Creates the run's process groups, yields this rank's device, and destroys the groups on exit, also after an error. What
    it has set in the environment is then as it was.

    gloo groups have threads that keep the last tensors they moved. If a thread drops such a tensor while the interpreter shuts
    down, the process aborts ("terminate called without an active exception"). Destroying a group is not enough: its threads
    end only when nothing refers to the group any more.

    Args:
        world: this rank.
        timeout: for connecting, and for each collective of any group.

    Raises:
        UserError: if there is no GPU for this rank.
        PeerError: if the ranks could not connect.
    """
    import deepspeed
    from deepspeed import comm
    from deepspeed.accelerator import get_accelerator

    lighten()
    raise_if_any(card_problems(world.local_rank))
    accelerator = get_accelerator()
    if accelerator.device_name() != "cpu":
        accelerator.set_device(world.local_rank)
    with ExitStack() as outer:
        outer.enter_context(_variables(world))
        outer.enter_context(_default_timeout(timeout))
        if world.size > 1:
            outer.enter_context(watched(f"rank {world.rank}", world.launchers, timeout.total_seconds()))
        try:
            deepspeed.init_distributed(verbose=False, timeout=timeout)
        except dist.DistError as error:
            place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise PeerError(
                f"{world.size} ranks could not connect at {place} within {timeout}: {error}. "
                "A rank that failed before has printed the reason"
            ) from None
        use_control_group(None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo"))
        try:
            if world.size > 1:
                outer.enter_context(on_lookout(world.rank, world.size, world.local_rank))
            yield torch.device(accelerator.current_device_name())
        finally:
            use_control_group(None)
            comm.destroy_process_group()
            release()
            gc.collect()


@contextmanager
def _variables(world: World) -> Iterator[None]:
    """A context in which the environment says where the ranks are, as after a launcher. What it sets is then as it was before;
    what others have set since stays, as the doctor leaves a group that hangs in a thread of its own."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    own = {"RANK": str(world.rank), "WORLD_SIZE": str(world.size), "LOCAL_RANK": str(world.local_rank), **found}
    if world.size == 1:  # a single process needs no address, whatever a launcher has set
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    own = {name: value for name, value in own.items() if found.get(name) != value}
    os.environ |= own
    try:
        yield
    finally:
        for name in [name for name, value in own.items() if os.environ.get(name) == value]:
            del os.environ[name]
            if name in found:
                os.environ[name] = found[name]


@contextmanager
def _default_timeout(timeout: timedelta) -> Iterator[None]:
    """A context in which new groups get this time-out; DeepSpeed only passes its own to the first group."""
    c10d: Any = dist.distributed_c10d
    before = c10d.default_pg_timeout, c10d.default_pg_nccl_timeout
    c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout
    try:
        yield
    finally:
        c10d.default_pg_timeout, c10d.default_pg_nccl_timeout = before
