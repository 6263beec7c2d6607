"""`mat-ds train`: trains one run, on this rank or on ranks that it starts."""

from __future__ import annotations

from collections.abc import Sequence

from mat_ds.config.packaged import HOME
from mat_ds.errors import ExitCode, raise_if_any
from mat_ds.ranks.exits import as_rank
from mat_ds.ranks.local_launch import become_ranks, ranks_problems, without_ranks
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.terminal.display import Display
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.terminal.process import importing, run_process
from mat_ds.training.request import parse_arguments, read_request


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs the command line of `mat-ds train` on this rank, and returns its exit code."""
    return as_rank(lambda world: _train(arguments, world))


def _train(arguments: Sequence[str], world: World) -> ExitCode:
    parsed = parse_arguments(arguments)
    if parsed.ranks is not None:
        raise_if_any(ranks_problems(parsed.ranks))
    if parsed.ranks is not None and parsed.ranks > 1:
        # A mistake is told once, before the ranks are started.
        read_request(arguments, World(size=parsed.ranks, local_size=parsed.ranks))
        Display(True, parsed.quiet, parsed.json).say(f"starting {parsed.ranks} ranks")
        become_ranks(parsed.ranks, HOME / "launch" / "train.py", without_ranks(arguments))
    share_processors(world.local_size)  # not earlier: ranks that are started inherit the variable
    with LibraryLogs(kept=world.rank == 0) as library_logs:
        request = read_request(arguments, world)
        with importing(world.rank == 0 and not request.parsed.quiet):  # only now, as it takes seconds
            from mat_ds.planning.choice import choose_micro_batch
            from mat_ds.training.preflight import load_setup
            from mat_ds.training.run import run_on

        return run_on(load_setup(request, world, choose_micro_batch), world, library_logs)[0]


if __name__ == "__main__":
    run_process(main)
