"""Everything that can be found wrong with a run before its ranks meet: options, DeepSpeed JSON, data, model, folders."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from mat_ds.config.load import load_run_config
from mat_ds.config.schema import RunConfig, batch_problems, combination_problems
from mat_ds.engine import checkpoint
from mat_ds.engine.distributed import World
from mat_ds.engine.ds_config import complete, ds_config_problems, read_ds_config
from mat_ds.errors import Problem, UserError
from mat_ds.models.build import build_model, build_tokenizer
from mat_ds.rundir import RunDirectory
from mat_ds.tasks.examples import TaskData, load_task_data
from mat_ds.tasks.registry import find_task

DEMO_RECIPE = Path(__file__).parent.parent / "launch" / "recipes" / "demo.yaml"


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(Problem("command line", None, message, f"write it as in: {EXAMPLE}"))


EXAMPLE = "deepspeed launch/train.py --ds_config ds_configs/zero2.json --recipe launch/recipes/cola.yaml seed=1"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line of launch/train.py; raises `UserError` where it is not one."""
    parser = Parser(prog="launch/train.py", description="Fine-tune a language model on DeepSpeed.",
                    epilog=f"example: {EXAMPLE}", allow_abbrev=False)  # fmt: skip
    parser.add_argument(
        "--ds_config", type=Path, required=True, metavar="FILE", help="DeepSpeed JSON: ZeRO, offload, precision"
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="YAML of options that differ from the defaults")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the recipe")
    return parser.parse_intermixed_args(arguments)


@dataclass(frozen=True)
class Prepared:
    """A run whose input has been checked.

    Attributes:
        run, ds_config: the options, and what DeepSpeed gets.
        data, tokenizer, model: what is trained on what.
        resume_from: the checkpoint to continue from, if any.
    """

    run: RunConfig
    ds_config: dict[str, Any]
    data: TaskData
    tokenizer: Any
    model: torch.nn.Module
    resume_from: Path | None

    @property
    def fingerprint(self) -> str:
        """Equal on two ranks if they were given the same options, data, vocabulary and weights."""
        digest = hashlib.sha256(self.run.model_dump_json().encode())
        digest.update(json.dumps(self.ds_config, sort_keys=True).encode())
        for examples in (self.data.train, *self.data.dev.values(), *self.data.test.values()):
            digest.update(repr([(example.texts, example.label) for example in examples]).encode())
        digest.update(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        for parameter in self.model.parameters():
            digest.update(str(parameter.detach().double().sum().item()).encode())
        return digest.hexdigest()


def prepare(arguments: Sequence[str], world: World) -> Prepared:
    """From the command line to a run that can start; speaks to no other rank.

    Raises:
        UserError: naming every problem found.
    """
    parsed = parse_arguments(arguments)
    found: list[Problem] = []
    run = _collect(found, load_run_config, parsed.recipe, parsed.overrides, DEMO_RECIPE)
    tree = _collect(found, read_ds_config, parsed.ds_config)
    if run is None or tree is None:
        raise UserError(*found)
    found += combination_problems(run, world.size)
    if not list(batch_problems(run.train, world.size)):
        found += ds_config_problems(tree, run, world)

    spec = _collect(found, find_task, run.task)
    data = _collect(found, load_task_data, spec, run.data) if spec else None
    texts = (text for example in (data.train if data else ()) for text in example.texts)
    tokenizer = _collect(found, build_tokenizer, run.model, texts)
    resume_from = _collect(found, find_resume, run)
    found += _size_problems(run, data) if data else ()
    if found or data is None:
        raise UserError(*found)
    model = build_model(run.model, data.spec, tokenizer, run.seed)
    return Prepared(run, complete(tree, run, world), data, tokenizer, model, resume_from)


def find_resume(run: RunConfig) -> Path | None:
    """The checkpoint to continue from, None to start afresh.

    Raises:
        UserError: if the run directory is taken, or there is nothing to continue from.
    """
    rundir = RunDirectory(Path(run.output_dir)) if run.output_dir else None
    resume = run.train.resume
    if resume == "never":
        if rundir and rundir.holds_a_run:
            raise UserError(Problem("output_dir", run.output_dir, "holds a run already, and nothing is overwritten",
                                    "pass train.resume=auto to continue it, or another output_dir"))  # fmt: skip
        return None
    if resume == "auto":
        return checkpoint.find(rundir.path) if rundir else None
    found = checkpoint.find(Path(resume))
    if found is None:
        raise UserError(Problem("train.resume", resume, "is neither a checkpoint nor a run directory with one",
                                "pass runs/<run> or runs/<run>/checkpoints/step-<n>"))  # fmt: skip
    if rundir and rundir.holds_a_run and rundir.path.resolve() != found.parent.parent.resolve():
        raise UserError(Problem("output_dir", run.output_dir, "holds another run than the one to continue",
                                "leave output_dir out to continue the run in place, or name a new folder"))  # fmt: skip
    return found


def _size_problems(run: RunConfig, data: TaskData) -> Iterator[Problem]:
    if 0 < len(data.train) < run.train.batch_size:
        yield Problem("train.batch_size", run.train.batch_size, f"is more than the {len(data.train)} training examples",
                      f"take at most {len(data.train)}")  # fmt: skip


def _collect(found: list[Problem], function: Any, *arguments: Any) -> Any:
    """The function's result, or None and its problems added to `found`."""
    try:
        return function(*arguments)
    except UserError as error:
        found += error.problems
        return None
