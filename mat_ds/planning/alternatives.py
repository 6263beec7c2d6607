"""Plans of other layouts: every ZeRO stage, offload and gradient checkpointing, with the largest micro-batch that fits."""

from __future__ import annotations

from mat_ds.engine.zero import read_zero
from mat_ds.planning.costs import Costs, PassBytes
from mat_ds.planning.plan import Cards, Plan, make_plan, memory_rows, peak_of
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import Tree, complete, serves
from mat_ds.runs.ds_types import OFFLOADS
from mat_ds.runs.options import RunConfig, micro_batch_sizes

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
    found = (_of_layout(costs, run, tree, cards, *layout, again) for layout in LAYOUTS for again in (False, True))
    return sorted(filter(None, found), key=lambda plan: (not plan.fits, *cost(plan)))


def cost(plan: Plan) -> tuple[float, ...]:
    """The key by which plans are sorted, cheapest first. Offload comes last, because its slow updates are not estimated."""
    return plan.zero.offload_optimizer + plan.zero.offload_param, plan.seconds, plan.traffic.total, plan.card


def _of_layout(
    costs: Costs, run: RunConfig, tree: Tree, cards: Cards, stage: int, offloads: tuple[str, ...], again: bool
) -> Plan | None:
    """The plan of a layout; None if the method cannot run with it."""
    changed = run.model_copy(update={"model": run.model.model_copy(update={"gradient_checkpointing": again})})
    completed = complete(_at(tree, stage, offloads), changed, World(size=cards.count))
    able = serves(completed, changed.model)
    if any(changed.method.engine_problems(able)):
        return None
    changed = changed.model_copy(update={"method": changed.method.settled(able)})
    size, passes = largest_micro_batch(costs, changed, completed, cards)
    return make_plan(costs, changed.at_micro_batch(size), completed, cards, passes)


def largest_micro_batch(
    costs: Costs, run: RunConfig, completed: Tree, cards: Cards, most: int | None = None
) -> tuple[int, PassBytes]:
    """The largest micro-batch that fits, or one example if none fits, and the bytes of its activations.

    Args:
        costs: costs of the passes.
        run: the options, with every `auto` of the method replaced; its micro-batch is ignored.
        completed: the complete DeepSpeed configuration.
        cards: the GPUs.
        most: the largest micro-batch to try; None: a rank's whole share of the batch.
    """
    zero, sizes = read_zero(completed), micro_batch_sizes(run.train, cards.count, most)
    for size in reversed(sizes):
        passes = _passes(costs, run, size, sizes[-1])
        if peak_of(memory_rows(costs, run.at_micro_batch(size), zero, cards, passes)) <= cards.memory:
            break
    return size, passes


def _passes(costs: Costs, run: RunConfig, size: int, most: int) -> PassBytes:
    """Bytes of activations of a micro-batch, interpolated between those of one example and of `most`.

    The true value is not larger: a peak is the maximum of several linear functions of the micro-batch, and thus convex.
    """
    ends = (costs.pass_bytes(run.method, examples, run.model.gradient_checkpointing) for examples in (1, most))
    return PassBytes(*(first + (last - first) * (size - 1) // max(1, most - 1) for first, last in zip(*ends, strict=True)))


def _at(tree: Tree, stage: int, offloads: tuple[str, ...]) -> Tree:
    """The user's JSON with another stage and offload."""
    given: Tree = tree.get("zero_optimization", {})
    ruled_out = (*OFFLOADS, *(("overlap_comm",) if stage < 2 else ()))
    kept = {key: value for key, value in given.items() if key not in ruled_out}
    offload = {key: {**HOST, **given.get(key, {}), "device": "cpu"} for key in offloads}
    return {**tree, "zero_optimization": {**kept, **offload, "stage": stage}}
