"""`mat-ds plan`: estimates whether a run fits into GPU memory, what to change if not, and its communication and time.

No weights are loaded and no GPU is used: the model is built from its configuration on PyTorch's meta device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mat_ds.config.packaged import add_file_arguments
from mat_ds.errors import ExitCode, UserError, raise_if_any
from mat_ds.models.source import check_place, hub_names
from mat_ds.ranks.exits import attempt, configure_process
from mat_ds.ranks.processors import share_processors
from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_count, chain_problems
from mat_ds.runs.ds_config import complete, json_problems, read_ds_config, serves
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.runs.options import combination_problems, example_problems, task_problems
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.hub import expect_from_hub
from mat_ds.tasks.own_data import task_of
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.terminal.process import importing
from mat_ds.terminal.units import link, memory, positive, whole
from mat_ds.terminal.waiting import waiting

if TYPE_CHECKING:
    from mat_ds.planning.report import PlanReport

EXAMPLE = "mat-ds plan --recipe cola --ds_config zero2 --gpus 8 --gpu_memory 16GB --link 10Gb/s"
# Assumed sustained speed of a GPU in 10^12 operations per second, if --tflops is not given: a third to a half of the rated
# speed of a V100 (fp32, fp16) and an RTX 3090 (bf16).
SUSTAINED = {"fp32": 7.0, "fp16": 40.0, "bf16": 30.0}


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints the plan; returns 0 if the run fits, 1 if it does not, 2 for wrong input."""
    configure_process()
    share_processors(1)
    return attempt(lambda: _show_plan(parse(arguments)))


def _show_plan(parsed: argparse.Namespace) -> ExitCode:
    answer = find(parsed)
    from mat_ds.planning.report import plan_json, plan_text

    show(json.dumps(plan_json(answer), indent=2) if parsed.json else plan_text(answer))
    return ExitCode.OK if answer.plan.fits else ExitCode.FAILED


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; raises `UserError` if it is invalid."""
    parser = Parser("plan", __doc__, EXAMPLE, renamed)
    add_file_arguments(parser)
    parser.add_argument("--gpus", type=whole, required=True, metavar="N", help="GPUs of the run, on all nodes together")
    parser.add_argument("--gpus_per_node", type=whole, metavar="N", help="for method.chains=per_node (default: all on one)")
    parser.add_argument("--gpu_memory", type=memory, required=True, metavar="SIZE", help="memory of each GPU, like 16GB")
    parser.add_argument("--link", type=link, metavar="SPEED", help="speed of the slowest link between two GPUs, like 10Gb/s")
    speeds = ", ".join(f"{speed:g} in {precision}" for precision, speed in SUSTAINED.items())
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
    world = World(size=parsed.gpus, local_size=parsed.gpus_per_node or parsed.gpus)
    tree = read_ds_config(parsed.ds_config)
    if asked is None:
        raise UserError(*problems)
    problems += [
        *combination_problems(asked, world.size),
        *chain_problems(asked, world),
        *example_problems(asked, parsed.examples),
    ]
    raise_if_any([*problems, *json_problems(tree, asked, world)])
    spec, able = task_of(asked.task, asked.data), serves(complete(tree, asked, world), asked.model)
    raise_if_any((*asked.method.engine_problems(able), *task_problems(asked, spec)))
    check_place(asked.model.name, tokenizer=False)
    expect_from_hub(*hub_names(asked.model.name))
    with importing():  # only now, as it takes seconds
        from mat_ds.engine.ds_config import ds_config_problems
        from mat_ds.planning.estimate import plan_report
        from mat_ds.planning.plan import Cards

    raise_if_any(ds_config_problems(tree, asked, world, here=False))
    cards = Cards(world.size, parsed.gpu_memory, parsed.link, 1e12 * (parsed.tflops or 0.0), chain_count(asked, world))
    with waiting(f"estimating the passes of {asked.model.name}"):
        return plan_report(asked, tree, spec, cards, parsed.examples, SUSTAINED)
