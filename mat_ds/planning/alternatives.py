"""Plans of other layouts: every ZeRO stage, offload and gradient checkpointing, with the largest micro-batch that fits."""

from __future__ import annotations

from mat_ds.engine.ds_config import Tree, complete, serves
from mat_ds.engine.ds_types import OFFLOADS
from mat_ds.planning.costs import Costs
from mat_ds.planning.plan import Cards, Plan, make_plan
from mat_ds.ranks.world import World
from mat_ds.runs.options import RunConfig

HOST = {"device": "cpu", "pin_memory": True}
OPTIMIZER, PARAMETERS = OFFLOADS
# Pairs of a ZeRO stage and what is offloaded to host memory.
LAYOUTS: list[tuple[int, tuple[str, ...]]] = [
    *((stage, ()) for stage in (0, 1, 2, 3)),
    *((stage, (OPTIMIZER,)) for stage in (1, 2, 3)),
    (3, (OPTIMIZER, PARAMETERS)),
]


def alternatives(costs: Costs, run: RunConfig, tree: Tree, cards: Cards) -> list[Plan]:
    """The plans of all layouts that the method can use, the cheapest that fits first.

    Args:
        costs: costs of the passes.
        run: the options as given.
        tree: the user's DeepSpeed JSON; its buckets and precision are kept.
        cards: the GPUs.
    """
    found = (_largest(costs, run, tree, cards, *layout, again) for layout in LAYOUTS for again in (False, True))
    return sorted(filter(None, found), key=lambda plan: (not plan.fits, *cost(plan)))


def cost(plan: Plan) -> tuple[float, ...]:
    """The key by which plans are sorted, cheapest first. Offload comes last, because its slow updates are not estimated."""
    return plan.zero.offload_optimizer + plan.zero.offload_param, plan.seconds, plan.traffic.total, plan.card


def _largest(
    costs: Costs, run: RunConfig, tree: Tree, cards: Cards, stage: int, offloads: tuple[str, ...], again: bool
) -> Plan | None:
    """The plan of a layout with the largest micro-batch that fits, or with one example if none fits.

    None if the method cannot run with this layout.
    """
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
    """Bytes of activations, interpolated between the smallest and the largest micro-batch.

    The true value is not larger: a peak is the maximum of several linear functions of the micro-batch, and thus convex.
    """
    least, most = (costs.pass_bytes(run.method, size, run.model.gradient_checkpointing) for size in (1, share))
    return least + (most - least) * (run.train.micro_batch_size - 1) // max(1, share - 1)


def _at(tree: Tree, stage: int, offloads: tuple[str, ...]) -> Tree:
    """The user's JSON with another stage and offload."""
    given: Tree = tree.get("zero_optimization", {})
    ruled_out = (*OFFLOADS, *(("overlap_comm",) if stage < 2 else ()))
    kept = {key: value for key, value in given.items() if key not in ruled_out}
    offload = {key: {**HOST, **given.get(key, {}), "device": "cpu"} for key in offloads}
    return {**tree, "zero_optimization": {**kept, **offload, "stage": stage}}
