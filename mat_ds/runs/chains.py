"""How many chains a run has, and whether its ranks can be divided among them."""

from __future__ import annotations

from collections.abc import Iterator

from mat_ds.errors import Problem
from mat_ds.methods import METHODS
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig


def chain_count(run: RunConfig, world: World) -> int:
    """The number of chains that `method.chains` asks for on these ranks."""
    asked = run.method.divided.chains
    named = {"one": 1, "per_node": max(1, world.size // world.local_size), "per_rank": world.size}
    return asked if isinstance(asked, int) else named[asked]


def chain_problems(run: RunConfig, world: World) -> Iterator[Problem]:
    """Yields a problem if the ranks cannot be divided equally among the chains, or other options do not go with several."""
    key, asked, count = "method.chains", run.method.divided.chains, chain_count(run, world)
    if count == 1 and run.train.local_steps > 1:
        able = ", ".join(name for name, method in METHODS.items() if "chains" in method.Settings.model_fields)
        reason = "says when chains of the parameters meet, and this run has one"
        fix = f"leave it out, or pass method.chains=per_rank, per_node on several nodes or a number, with one of {able}"
        yield Problem("train.local_steps", run.train.local_steps, reason, fix)
    if run.train.snapshots_of == "chains":
        yield from _member_problems(run, count)
    if asked in ("one", 1):
        return
    if count > 1 and run.sampling.temperature:
        reason = "the chains' samples are averaged where they meet, and an average is no sample"
        yield Problem("sampling.temperature", run.sampling.temperature, reason, "pass method.chains=one, or leave it out")
    if run.train.local_steps > 1 and run.sampling.cycles:
        reason = "keeps members where a cycle ends, and the chains need not meet there"
        yield Problem("sampling.cycles", run.sampling.cycles, reason, "pass train.local_steps=1, or leave it out")
    if asked == "per_node" and world.size % world.local_size:
        reason = (
            f"needs equally many ranks on every node, but {world.size} ranks are not a multiple of the {world.local_size} here"
        )
        yield Problem(key, asked, reason, "start as many on each, or give a number of chains")
    elif world.size % count:
        divisors = ", ".join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)
        yield Problem(key, asked, f"does not divide the {world.size} ranks of this run", f"take one of {divisors}")


def _member_problems(run: RunConfig, count: int) -> Iterator[Problem]:
    """Yields a problem if the snapshots cannot be those of the chains."""
    if count == 1:
        reason, fix = "keeps what each chain has come to, and this run has one", "leave it out, or give method.chains"
        yield Problem("train.snapshots_of", "chains", reason, fix)
    elif not run.train.snapshots:
        fix = f"pass train.snapshots={count} for those of the last step, or leave it out"
        yield Problem("train.snapshots_of", "chains", "says what is kept, and nothing is (train.snapshots=0)", fix)
    elif run.train.snapshots % (each := count * (run.sampling.cycles or 1)):
        reason = f"cannot be spread evenly over {count} chains" + (" and the cycles" if run.sampling.cycles else "")
        yield Problem("train.snapshots", run.train.snapshots, reason, f"take a multiple of {each}")
