"""What crosses between nodes in an outer step of a run, with one chain of the parameters and with one on each node."""

from __future__ import annotations

from typing import Any, NamedTuple

from mat_ds.engine.zero import read_zero
from mat_ds.models.build import build_skeleton
from mat_ds.planning.choice import MOST_ON_CARD
from mat_ds.planning.costs import Costs
from mat_ds.planning.traffic import meeting_bytes, traffic
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import Tree, complete, serves
from mat_ds.runs.options import RunConfig, micro_batch_sizes
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

# Tokens of the rehearsed texts; what is sent does not depend on them.
TOKENS = 8


class Crossing(NamedTuple):
    """Bytes that the slowest link carries in an outer step: the ring of all ranks crosses it once, the chains' once a shard."""

    one: float
    per_node: float


def crossing(run: RunConfig, tree: Tree, spec: TaskSpec, world: World) -> Crossing:
    """What crosses between nodes of equally many ranks; no data and no weights are read.

    Args:
        run, tree, spec: options, DeepSpeed's JSON and the task, all checked; the model is not built in.
        world: the ranks, of several nodes.

    Raises:
        UserError: if the model is not on this machine.
    """
    completed = complete(tree, run, world)
    zero = read_zero(completed)
    method = run.method.settled(serves(completed, run.model))

    def build(checkpointing: bool) -> Any:
        return build_skeleton(run.model, spec, None)

    costs = Costs(build, zero.dtype, kind_of(spec), TOKENS, TOKENS)
    chosen = run.train.micro_batch_size
    micro = micro_batch_sizes(run.train, world.size, MOST_ON_CARD)[-1] if chosen == "auto" else chosen
    tally = costs.tally(method, micro, run.train.batch_size // world.size // micro)
    sharers, nodes = world.local_size, world.size // world.local_size
    met = meeting_bytes(run.method.divided, run.optimizer.name)
    divided = traffic(costs.weights, zero, sharers, tally, nodes, run.train.local_steps, met)
    return Crossing(traffic(costs.weights, zero, world.size, tally).total, divided.across * sharers)
