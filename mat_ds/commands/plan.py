"""`mat-ds plan`: estimates whether a run fits into GPU memory, what to change if not, and its communication and time.

No weights are loaded and no GPU is used: the model is built from its configuration on PyTorch's meta device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch

from mat_ds.config.packaged import add_file_arguments
from mat_ds.engine.ds_config import complete, ds_config_problems, read_ds_config, serves
from mat_ds.engine.zero import read_zero
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.models.build import build_skeleton, build_tokenizer, longest_input
from mat_ds.models.perturb import MOST_TRIED, EmbeddingPerturbation
from mat_ds.models.source import has_tokenizer
from mat_ds.models.tiny import TINY
from mat_ds.planning.alternatives import alternatives, largest_micro_batch
from mat_ds.planning.choice import MOST_ON_CARD
from mat_ds.planning.costs import NO_PASS, Costs
from mat_ds.planning.extent import Extent, assume, example_problems, measured_extent
from mat_ds.planning.plan import Cards, make_plan
from mat_ds.planning.report import PlanReport, plan_json, plan_text
from mat_ds.planning.states import PRECISIONS
from mat_ds.ranks.exits import attempt, configure_process
from mat_ds.ranks.world import World
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.runs.options import RunConfig, combination_problems, micro_batch_sizes
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.examples import load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.spec import TaskSpec
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.units import link, memory, positive, whole
from mat_ds.training.preflight import size_problems, task_problems

EXAMPLE = "mat-ds plan --recipe cola --ds_config zero2 --gpus 8 --gpu_memory 16GB --link 10Gb/s"
# Assumed sustained speed of a GPU in 10^12 operations per second, if --tflops is not given: a third to a half of the rated
# speed of a V100 (fp32, fp16) and an RTX 3090 (bf16).
SUSTAINED = {torch.float32: 7.0, torch.float16: 40.0, torch.bfloat16: 30.0}


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints the plan; returns 0 if the run fits, 1 if it does not, 2 for wrong input."""
    configure_process(World())
    return attempt(lambda: _show_plan(parse(arguments)), World(), "")


def _show_plan(parsed: argparse.Namespace) -> ExitCode:
    answer = find(parsed)
    show(json.dumps(plan_json(answer), indent=2) if parsed.json else plan_text(answer))
    return ExitCode.OK if answer.plan.fits else ExitCode.FAILED


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("plan", __doc__, EXAMPLE, renamed)
    add_file_arguments(parser)
    parser.add_argument("--gpus", type=whole, required=True, metavar="N", help="GPUs of the run, on all nodes together")
    parser.add_argument("--gpu_memory", type=memory, required=True, metavar="SIZE", help="memory of each GPU, like 16GB")
    parser.add_argument("--link", type=link, metavar="SPEED", help="speed of the slowest link between two GPUs, like 10Gb/s")
    speeds = ", ".join(f"{speed:g} in {PRECISIONS[dtype]}" for dtype, speed in SUSTAINED.items())
    parser.add_argument("--tflops", type=positive, metavar="X", help=f"10^12 operations/s of a GPU (default: {speeds})")
    parser.add_argument("--examples", type=whole, metavar="N", help="training examples, if the data are not on this machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_plugin_argument(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the recipe")
    return parser.parse_intermixed_args(arguments)


def find(parsed: argparse.Namespace) -> PlanReport:
    """Makes the plan for a command line.

    Raises:
        UserError: naming what is wrong with the options, the DeepSpeed JSON, the data or the model.
    """
    load_plugins(parsed.plugin)
    asked, problems = read_run_config(parsed.recipe, parsed.overrides, DEMO_RECIPE)
    tree, world = read_ds_config(parsed.ds_config), World(size=parsed.gpus)
    if asked is None:
        raise UserError(*problems)
    problems += [*combination_problems(asked, world.size), *example_problems(asked, parsed.examples)]
    problems += ds_config_problems(tree, asked, world, here=False)
    raise_if_any(problems)
    completed, spec = complete(tree, asked, world), find_task(asked.task)
    able, dtype = serves(completed, asked.model), read_zero(completed).dtype
    raise_if_any((*asked.method.engine_problems(able), *task_problems(asked, spec)))
    run = asked.model_copy(update={"method": asked.method.settled(able)})
    chooses = run.train.micro_batch_size == "auto"
    if chooses:
        run = run.at_micro_batch(micro_batch_sizes(run.train, world.size, MOST_ON_CARD)[-1])
    costs, extent = _costs(run, spec, dtype, world.size, parsed.examples)
    cards = Cards(world.size, parsed.gpu_memory, parsed.link, 1e12 * (parsed.tflops or SUSTAINED[dtype]))
    if chooses:
        run = run.at_micro_batch(largest_micro_batch(costs, run, completed, cards, MOST_ON_CARD)[0])
    plan = make_plan(costs, run, completed, cards)
    return PlanReport(plan, alternatives(costs, asked, tree, cards), cards, extent, costs, parsed.tflops is None)


def _refuse_unperturbable(model: Any, length: int) -> None:
    """Raises `UserError` if the word embeddings of a model on the meta device cannot be perturbed, as far as a pass can
    tell."""
    hook, batch = EmbeddingPerturbation(model), torch.empty(1, min(length, MOST_TRIED), dtype=torch.long, device="meta")
    try:
        with suppress(*NO_PASS), hook.applied(torch.empty(*batch.shape, hook.width, device="meta")):
            model(input_ids=batch, attention_mask=batch)
    finally:
        hook.remove()


def _costs(run: RunConfig, spec: TaskSpec, dtype: torch.dtype, ranks: int, examples: int | None) -> tuple[Costs, Extent]:
    """The costs of a run's passes, and the lengths of its inputs."""
    data = load_task_data(spec, run.data) if spec.generate or run.data.path else None
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
    max_length = min(run.data.max_length, longest_input(model, tokenizer))
    if METHODS[run.method.name].perturbs():
        _refuse_unperturbable(model, max_length)
    measured = measured_extent(run, data, tokenizer, max_length, ranks) if data and tokenizer else None
    extent = measured or assume(run, spec, data, max_length, examples)
    return Costs(build, dtype, kind_of(spec), extent.longest, extent.typical), extent
