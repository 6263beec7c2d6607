"""How many chains a run has, and whether its ranks can be divided among them."""

from __future__ import annotations

from collections.abc import Iterator

from mat_ds.errors import Problem
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig


def chain_count(run: RunConfig, world: World) -> int:
    """The number of chains that `method.chains` asks for on these ranks."""
    asked, _ = run.method.divided
    named = {"one": 1, "per_node": max(1, world.size // world.local_size), "per_rank": world.size}
    return asked if isinstance(asked, int) else named[asked]


def chain_problems(run: RunConfig, world: World) -> Iterator[Problem]:
    """Yields a problem if the ranks cannot be divided equally among the chains."""
    key, (asked, _), count = "method.chains", run.method.divided, chain_count(run, world)
    if asked in ("one", 1):
        return
    if asked == "per_node" and world.size % world.local_size:
        reason = (
            f"needs equally many ranks on every node, but {world.size} ranks are not a multiple of the {world.local_size} here"
        )
        yield Problem(key, asked, reason, "start as many on each, or give a number of chains")
    elif world.size % count:
        divisors = ", ".join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)
        yield Problem(key, asked, f"does not divide the {world.size} ranks of this run", f"take one of {divisors}")
