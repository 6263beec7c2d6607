"""Opens the run directory: locks it and writes the run's description."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.ranks.collectives import any_rank, from_all_ranks, on_rank_zero
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig
from mat_ds.runs.resume import changed_input, find_resume
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.leases import LEASE_SECONDS, LOOK
from mat_ds.storage.rundir import RunDirectory, new_folder
from mat_ds.tracking.mirrored import own_id
from mat_ds.training.announce import environment, host_and_device
from mat_ds.training.services import Services
from mat_ds.training.setup import Data, Options, Start

# Seconds until a file written by rank 0 must be visible on other nodes: network disks cache missing files.
SHARED_SECONDS = 60


def open_run_directory(
    options: Options, data: Data, start: Start, world: World, device: torch.device, services: Services
) -> tuple[RunDirectory, Start]:
    """The run directory, locked and described by rank 0, and from where the run starts.

    Checkpoints are searched again here, since another job may have written some since the first search.

    Raises: UserError: on every rank, if another job uses the directory, it now holds a run that this one may not continue,
        or a node does not see what rank 0 wrote.
    """
    run, lock, places = options.run, services.lock, from_all_ranks(host_and_device(device))
    rundir = RunDirectory(_take(run, data.examples.spec.name, start, services))
    start = on_rank_zero(lambda: _search_again(options, start))

    def make() -> None:
        lock.check()
        rundir.create()
        own_id(rundir)
        described = environment(options, data, start, world, places, rundir if rundir.holds_a_run else start.before)
        resolved = {**run.tracked().model_dump(mode="json"), "output_dir": str(rundir.path)}
        write_text(rundir.config, as_yaml(resolved), lock.check)
        write_json(rundir.environment, described, lock.check)

    on_rank_zero(make)
    deadline = time.monotonic() + SHARED_SECONDS
    while not rundir.holds_a_run and time.monotonic() < deadline:
        time.sleep(0.1)
    if any_rank(not rundir.holds_a_run, device):
        raise UserError(Problem("output_dir", str(rundir.path), "some node does not see what the first one wrote there",
                                "name a folder on a disk that all nodes share"))  # fmt: skip
    return rundir, start


def _take(run: RunConfig, task: str, start: Start, services: Services) -> Path:
    """The run directory, created and locked by rank 0; waits until it is known whether the previous job is gone.

    Raises:
        UserError: on every rank, if another job uses it.
    """
    lock = services.lock

    def choose() -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        chosen = Path(run.output_dir) if run.output_dir else start.before.path if start.before else None
        return chosen or new_folder(Path(f"runs/{task}-{run.method.name}-{stamp}"))

    path = on_rank_zero(choose)
    waits = False
    while not on_rank_zero(lambda: lock.take(path)):
        if not waits:
            services.display.say(
                f"waiting to see whether {lock.in_the_way} is still in {path}: it is not, if nothing moves there "
                f"for {LEASE_SECONDS:.0f} s"
            )
        waits = True
        services.stop_requests.leave_if_told()
        time.sleep(LOOK)
    return path


def _search_again(options: Options, start: Start) -> Start:
    """`start` with the checkpoints that exist now, while no other job can change them."""
    found = replace(start, checkpoints=find_resume(options.run, options.ds_config))
    if found.before and found != start:
        raise_if_any(changed_input(start.data_digest, start.weights_digest["frozen"], found.before))
    return found
