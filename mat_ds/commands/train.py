"""`mat-ds train`: trains one run, on this rank."""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.errors import ExitCode
from mat_ds.ranks.exits import as_rank
from mat_ds.ranks.world import World
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.terminal.process import importing, run_process
from mat_ds.training.request import read_request


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line of `mat-ds train` on this rank, and returns its exit code."""
    return as_rank(lambda world: _train(arguments, world))


def _train(arguments: Sequence[str], world: World) -> ExitCode:
    with LibraryLogs(kept=world.rank == 0) as library_logs:
        request = read_request(arguments, world)
        with importing(world.rank == 0 and not request.parsed.quiet):  # only now, as it takes seconds
            from mat_ds.planning.choice import choose_micro_batch
            from mat_ds.training.preflight import load_setup
            from mat_ds.training.run import run_on

        return run_on(load_setup(request, world, choose_micro_batch), world, library_logs)[0]


if __name__ == "__main__":
    run_process(main)
