"""Worker: the time-out of every process group, and the ranks' messages and exit codes when one of them fails.

It is given a free port for each process group that it makes.
"""

import contextlib
import io
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

from mat_ds.engine.group import process_group
from mat_ds.ranks.collectives import all_reduce_sum, barrier, on_rank_zero
from mat_ds.ranks.exits import attempt
from mat_ds.ranks.world import World
from mat_ds.sampling.average import Average
from tests.workers.worker import MAT, STAGES, ds_json, make, write_report

TIMEOUT = timedelta(seconds=77)
ERRORS = {
    "value": lambda: ValueError("row 7 has no label"),
    "memory": lambda: MemoryError("no room for 80 GB"),
    "gpu memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
}


def timeouts():
    """Time-outs of all process groups, in seconds."""
    groups = dist.distributed_c10d._world.pg_map
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]


def fails_while_the_others_wait(rank, failing, error):
    """After a collective one rank fails, while the others are in the next."""

    def work():
        all_reduce_sum(torch.ones(3))
        if rank == failing:
            raise ERRORS[error]()
        all_reduce_sum(torch.ones(3))

    return work


def cleans_up_in_a_collective(rank):
    """Rank 1 fails, and its clean-up fails in a collective that the other rank is not in."""

    def work():
        try:
            if rank == 1:
                raise ERRORS["value"]()
        finally:
            if rank == 1:
                raise RuntimeError("[/gloo/transport/tcp/pair.cc:537] Connection reset by peer")
        barrier()

    return work


def fails_with_averaged_weights(world):
    """Rank 1 fails in a pass with averaged weights, which under ZeRO-3 all ranks must gather to swap them back."""

    def work():
        engine, _ = make(world, ds_json(3), MAT, averages={"average": Average(0.5)})
        try:
            with engine.averaged_weights("average"):
                if world.rank == 1:
                    raise ERRORS["value"]()
                barrier()
        finally:
            engine.close()

    return work


def all_fail_together(rank):
    """All ranks fail at the same time, each with another error."""

    def work():
        barrier()
        raise ValueError(f"of rank {rank}")

    return work


def rank_zero_tells(rank):
    """Work that rank 0 does for all ranks fails."""
    return lambda: on_rank_zero(lambda: (_ for _ in ()).throw(OSError("disk full")))


def all_groups_have_the_timeout(world, report):
    before = dist.distributed_c10d.default_pg_timeout
    with process_group(world, TIMEOUT):
        for stage in STAGES:
            engine, _ = make(world, ds_json(stage), MAT)
            report[f"time-outs zero-{stage}"] = timeouts()
            engine.close()
    report["default put back"] = dist.distributed_c10d.default_pg_timeout == before


def main():
    world, report, ports = World.from_environment(), {}, sys.argv[2:]
    all_groups_have_the_timeout(world, report)
    works = {f"{error} on {rank}": fails_while_the_others_wait(world.rank, rank, error) for rank in (0, 1) for error in ERRORS}
    works |= {
        "clean-up": cleans_up_in_a_collective(world.rank),
        "averaged": fails_with_averaged_weights(world),
        "all": all_fail_together(world.rank),
        "told": rank_zero_tells(world.rank),
    }
    outcomes = {}
    for port, (name, work) in zip(ports, works.items(), strict=False):
        os.environ["MASTER_PORT"] = port
        started = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()) as said, process_group(world, TIMEOUT):
            code = attempt(work, world, "")
        outcomes[name] = [int(code), said.getvalue(), time.monotonic() - started]
    os.environ["MASTER_PORT"] = ports[-1]
    with process_group(world, TIMEOUT):
        for name, outcome in outcomes.items():
            report[name] = [None] * world.size
            dist.all_gather_object(report[name], outcome)
    write_report(world, report)


if __name__ == "__main__":
    main()
