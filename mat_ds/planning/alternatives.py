"""What else would fit: every ZeRO stage, offload and gradient checkpointing, each with the largest micro-batch that does."""

from __future__ import annotations

from mat_ds.engine.ds_config import Tree, complete, serves
from mat_ds.engine.ds_types import OFFLOADS
from mat_ds.planning.costs import Costs
from mat_ds.planning.plan import Cards, Plan, make_plan
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig

HOST = {"device": "cpu", "pin_memory": True}
OPTIMIZER, PARAMETERS = OFFLOADS
# ZeRO stage, and what is in host memory.
LAYOUTS: list[tuple[int, tuple[str, ...]]] = [
    *((stage, ()) for stage in (0, 1, 2, 3)),
    *((stage, (OPTIMIZER,)) for stage in (1, 2, 3)),
    (3, (OPTIMIZER, PARAMETERS)),
]


def alternatives(costs: Costs, run: RunConfig, tree: Tree, cards: Cards) -> list[Plan]:
    """The plans of all layouts that the method can run at, the cheapest that fits first.

    Args:
        costs: of the run's passes.
        run: its options, as they were given.
        tree: the user's DeepSpeed JSON, whose buckets and precision stay what they are.
        cards: what it runs on.
    """
    found = (_largest(costs, run, tree, cards, *layout, again) for layout in LAYOUTS for again in (False, True))
    return sorted(filter(None, found), key=lambda plan: (not plan.fits, *cost(plan)))


def cost(plan: Plan) -> tuple[float, ...]:
    """Less is cheaper. What is in host memory comes last: its updates are slow in a way that is not counted here."""
    return plan.zero.offload_optimizer + plan.zero.offload_param, plan.seconds, plan.traffic.total, plan.card


def _largest(
    costs: Costs, run: RunConfig, tree: Tree, cards: Cards, stage: int, offloads: tuple[str, ...], again: bool
) -> Plan | None:
    """The plan at the largest micro-batch that fits, or at one example if none does; None where the method cannot run."""
    share = run.train.batch_size // cards.count
    plan = None
    for micro in (size for size in range(share, 0, -1) if share % size == 0):
        changed = run.model_copy(
            update={
                "train": run.train.model_copy(update={"micro_batch_size": micro}),
                "model": run.model.model_copy(update={"gradient_checkpointing": again}),
            }
        )
        completed = complete(_at(tree, stage, offloads), changed, World(size=cards.count))
        able = serves(completed, changed.model)
        if any(changed.method.engine_problems(able)):
            return None
        changed = changed.model_copy(update={"method": changed.method.settled(able)})
        plan = make_plan(costs, changed, completed, cards, _passes(costs, changed, share))
        if plan.fits:
            break
    return plan


def _passes(costs: Costs, run: RunConfig, share: int) -> int:
    """Bytes of activations, on the chord between the smallest and the largest micro-batch. A peak is the largest of several
    sums that grow linearly with the micro-batch, so it lies on the chord or below."""
    least, most = (costs.pass_bytes(run.method, size, run.model.gradient_checkpointing) for size in (1, share))
    return least + (most - least) * (run.train.micro_batch_size - 1) // max(1, share - 1)


def _at(tree: Tree, stage: int, offloads: tuple[str, ...]) -> Tree:
    """The user's JSON at another stage and offload."""
    given: Tree = tree.get("zero_optimization", {})
    ruled_out = (*OFFLOADS, *(("overlap_comm",) if stage < 2 else ()))
    kept = {key: value for key, value in given.items() if key not in ruled_out}
    offload = {key: {**HOST, **given.get(key, {}), "device": "cpu"} for key in offloads}
    return {**tree, "zero_optimization": {**kept, **offload, "stage": stage}}
