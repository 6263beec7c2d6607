"""The micro-batch of a run that leaves it to the program (`train.micro_batch_size=auto`)."""

from __future__ import annotations

from typing import Any

from mat_ds.engine.startup import card_memory
from mat_ds.engine.zero import read_zero
from mat_ds.errors import Problem, UserError
from mat_ds.models.build import build_skeleton
from mat_ds.planning.alternatives import largest_micro_batch
from mat_ds.planning.costs import Costs
from mat_ds.planning.extent import longest_tokens
from mat_ds.planning.plan import Cards
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import Tree
from mat_ds.runs.options import RunConfig, micro_batch_sizes
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator

# Beyond these a pass takes as long as its examples one after another, and padding grows.
MOST_ON_CPU, MOST_ON_CARD = 32, 64


def choose_micro_batch(run: RunConfig, completed: Tree, data: TaskData, tokenizer: Any, max_length: int, world: World) -> int:
    """The largest micro-batch that divides the ranks' shares and is estimated to fit this rank's GPU, or suits its CPU.

    Ranks with other GPUs choose other numbers; each of them fits the GPUs of the ranks that chose a larger one.

    Args:
        run: the options, with every `auto` of the method replaced.
        completed: the DeepSpeed configuration, complete but for the micro-batch.
        data, tokenizer, max_length: of the run.
        world: this rank.

    Raises:
        UserError: if the memory of this model cannot be estimated.
    """
    memory = card_memory(world.local_rank)
    if memory is None:
        return micro_batch_sizes(run.train, world.size, MOST_ON_CPU)[-1]
    spec, kind = data.spec, kind_of(data.spec)
    longest = longest_tokens(data.train, Collator(tokenizer, max_length, kind), run.data.augment)

    def build(checkpointing: bool) -> Any:
        return build_skeleton(run.model.model_copy(update={"gradient_checkpointing": checkpointing}), spec, tokenizer)

    cards = Cards(world.size, memory, link=None, flops=1.0)  # only memory is asked for, not time
    try:
        costs = Costs(build, read_zero(completed).dtype, kind, longest, longest, kind.most_inputs(data.train))
        return largest_micro_batch(costs, run, completed, cards, MOST_ON_CARD)[0]
    except Exception as error:  # a model of any make: what it lacks without weights is not known before
        reason = f"the memory that this model needs cannot be estimated ({type(error).__name__}: {error})"
        raise UserError(Problem("train.micro_batch_size", "auto", reason, "pass train.micro_batch_size=<number>")) from error
