"""Makes the plan of a run, for `mat-ds plan`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from mat_ds.engine.zero import read_zero
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.models.build import build_skeleton, build_tokenizer, longest_input
from mat_ds.models.depth import step_size_problems
from mat_ds.models.first_layer import layer_problems
from mat_ds.models.perturb import MOST_TRIED, EmbeddingPerturbation
from mat_ds.models.source import has_tokenizer
from mat_ds.models.tiny import TINY
from mat_ds.planning.alternatives import alternatives, largest_micro_batch
from mat_ds.planning.choice import MOST_ON_CARD
from mat_ds.planning.costs import NO_PASS, Costs
from mat_ds.planning.extent import Extent, assume, measured_extent
from mat_ds.planning.plan import Cards, make_plan
from mat_ds.planning.report import PlanReport
from mat_ds.planning.states import PRECISIONS
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import Tree, complete, serves
from mat_ds.runs.options import RunConfig, micro_batch_sizes, size_problems
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec


def plan_report(
    asked: RunConfig, tree: Tree, spec: TaskSpec, cards: Cards, examples: int | None, sustained: Mapping[str, float]
) -> PlanReport:
    """The plan of a run.

    Args:
        asked, tree, spec: its options, DeepSpeed's JSON and the task, all checked.
        cards: the GPUs; with a speed of 0, that of their precision in `sustained` is assumed, in 10^12 operations per second.
        examples: training examples, if the data are not on this machine.

    Raises:
        UserError: naming what is wrong with the data or the model.
    """
    world = World(size=cards.count)
    completed = complete(tree, asked, world)
    dtype = read_zero(completed).dtype
    run = asked.model_copy(update={"method": asked.method.settled(serves(completed, asked.model))})
    chooses = run.train.micro_batch_size == "auto"
    if chooses:
        run = run.at_micro_batch(micro_batch_sizes(run.train, world.size, MOST_ON_CARD)[-1])
    costs, extent = _costs(run, spec, dtype, world.size, examples)
    assumed = not cards.flops
    if assumed:
        cards = replace(cards, flops=1e12 * sustained[PRECISIONS[dtype]])
    if chooses:
        run = run.at_micro_batch(largest_micro_batch(costs, run, completed, cards, MOST_ON_CARD)[0])
    plan = make_plan(costs, run, completed, cards)
    return PlanReport(plan, alternatives(costs, asked, tree, cards), cards, extent, costs, assumed)


def _refuse_unperturbable(model: Any, length: int, inputs: int) -> None:
    """Raises `UserError` if the word embeddings of a model on the meta device cannot be perturbed, as far as a pass can
    tell."""
    shape = (1, inputs, min(length, MOST_TRIED)) if inputs > 1 else (1, min(length, MOST_TRIED))
    hook, batch = EmbeddingPerturbation(model), torch.empty(shape, dtype=torch.long, device="meta")
    try:
        with suppress(*NO_PASS), hook.applied(torch.empty(*batch.flatten(0, -2).shape, hook.width, device="meta")):
            model(input_ids=batch, attention_mask=batch)
    finally:
        hook.remove()


def _costs(run: RunConfig, spec: TaskSpec, dtype: torch.dtype, ranks: int, examples: int | None) -> tuple[Costs, Extent]:
    """The costs of a run's passes, and the lengths of its inputs."""
    data = load_task_data(spec, run.data) if spec.generate or run.data.own else None
    if data:
        raise_if_any(size_problems(run, data))
    elif run.model.name == TINY:
        raise UserError(Problem("model.name", TINY, "its vocabulary is trained on the task's texts, which are missing",
                                "pass data.path=<folder>, or name another model"))  # fmt: skip
    readable = data is not None and (run.model.name == TINY or has_tokenizer(run.model.name))
    texts = (text for example in (data.train if data else ()) for text in example.texts)
    tokenizer = build_tokenizer(run.model, texts) if readable else None

    def build(checkpointing: bool) -> Any:
        return build_skeleton(run.model.model_copy(update={"gradient_checkpointing": checkpointing}), spec, tokenizer)

    model = build(False)
    raise_if_any([*step_size_problems(model, run.optimizer), *layer_problems(model, run.model.name, run.method)])
    max_length = min(run.data.max_length, longest_input(model, tokenizer))
    kind = kind_of(spec)
    inputs = kind.most_inputs(data.train if data else ())
    if METHODS[run.method.name].perturbs():
        _refuse_unperturbable(model, max_length, inputs)
    if data and tokenizer:
        data = replace(data, train=kind.parts(tokenizer, data.train, max_length))
    measured = measured_extent(run, data, tokenizer, max_length, ranks) if data and tokenizer else None
    extent = measured or assume(run, spec, data, max_length, examples)
    return Costs(build, dtype, kind, extent.longest, extent.typical, inputs), extent
