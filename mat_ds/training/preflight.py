"""Checks the input of a run before its ranks connect: options, DeepSpeed JSON, data, model and folders."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mat_ds.config.overrides import given_twice
from mat_ds.config.packaged import add_file_arguments
from mat_ds.engine.ds_config import complete, ds_config_problems, read_ds_config, serves
from mat_ds.engine.ds_types import idle
from mat_ds.errors import Problem, UserError, collect_problems, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.models.build import Built, build_model, build_tokenizer, longest_input
from mat_ds.models.perturb import MOST_TRIED, check_perturbable
from mat_ds.models.unread import value_of
from mat_ds.models.vocabulary import token_type_problems, vocabulary_problems
from mat_ds.ranks.launch import launcher_problems
from mat_ds.ranks.world import World
from mat_ds.runs.load import DEMO_RECIPE, read_run_config
from mat_ds.runs.options import RunConfig, combination_problems
from mat_ds.runs.plugins import load_plugins
from mat_ds.runs.resume import changed_input, find_resume, output_problems, recorded_micro_batch
from mat_ds.runs.trainer_names import renamed
from mat_ds.tasks.examples import TaskData, load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.manifest import Manifest, changed_tokens, find_manifest
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.tokens import with_tokens
from mat_ds.terminal.display import add_display_arguments
from mat_ds.terminal.parser import Parser, add_plugin_argument
from mat_ds.tracking.trust import recipe_uri_problems
from mat_ds.training.setup import Data, Model, Options, Setup, Start

# Chooses the micro-batch of a run, given its options, DeepSpeed configuration, data, tokenizer and maximum length, on a rank.
Choose = Callable[[RunConfig, dict[str, Any], TaskData, Any, int, World], int]

# At most one node's ranks may tokenise the data themselves, since each of them reads all of it from the same disk.
MOST_THAT_TOKENISE = 8

EXAMPLE = "deepspeed --module mat_ds.commands.train --ds_config zero2 --recipe cola seed=1"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line of `mat-ds train` and launch/train.py; raises `UserError` if it is wrong."""
    parser = Parser("train", "Fine-tune a language model on DeepSpeed.", EXAMPLE, renamed)
    add_file_arguments(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("--dry_run", action="store_true", help="do everything up to the first step, write nothing, and stop")
    add_plugin_argument(parser)
    add_display_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the recipe")
    return parser.parse_intermixed_args(arguments)


def prepare(arguments: Sequence[str], world: World, choose: Choose) -> Setup:
    """Checks everything that the command line names, and loads it; communicates with no other rank.

    Args:
        arguments: the command line.
        world: this rank.
        choose: chooses the micro-batch of a new run that names none.

    Raises:
        UserError: naming every problem found.
    """
    parsed = parse_arguments(arguments)
    load_plugins(parsed.plugin)
    found: list[Problem] = []
    run, wrong = collect_problems(found, read_run_config, parsed.recipe, parsed.overrides, DEMO_RECIPE) or (None, [])
    found += wrong
    tree = collect_problems(found, read_ds_config, parsed.ds_config)
    if run is None:
        raise UserError(*found)
    dropped = {problem.key for problem in wrong}
    if not dropped & {"train.batch_size", "train.micro_batch_size"}:
        found += combination_problems(run, world.size)
    found += recipe_uri_problems(run.tracking.uri, parsed.recipe, parsed.overrides)
    refused = list(ds_config_problems(tree, run, world)) if tree is not None else []
    completed = complete(tree, run, world) if tree is not None and not refused else {}
    if completed:
        able = serves(completed, run.model)
        refused += run.method.engine_problems(able)
        run = run.model_copy(update={"method": run.method.settled(able)})
    found += [*refused, *launcher_problems(), *output_problems(run)]

    spec = collect_problems(found, find_task, run.task) if "task" not in dropped else None
    found += task_problems(run, spec) if spec else ()
    unusable: list[Problem] = []
    manifest = collect_problems(unusable, _manifest, run, world)
    found += unusable
    data = collect_problems(found, load_task_data, spec, run.data) if spec and not unusable else None
    texts = (text for example in (data.train if data else ()) for text in example.texts)
    tokenizer = collect_problems(found, build_tokenizer, run.model, texts)
    resume_from = (collect_problems(found, find_resume, run, completed) if not dropped else None) or []
    found += size_problems(run, data) if data else ()
    # At ZeRO-3 weights are left in their files, so that no rank needs memory for all of them.
    sharded = completed.get("zero_optimization", {}).get("stage") == 3
    built = collect_problems(found, build_model, run.model, spec, tokenizer, run.seed, sharded) if spec and tokenizer else None
    max_length = min(run.data.max_length, longest_input(built.module, tokenizer)) if built else 0
    if manifest and built and not dropped & {"data.max_length", "model.name"}:
        found += changed_tokens(manifest, str(run.data.path), tokenizer, run.model.name, max_length)
    if data and built:
        data = collect_problems(found, with_tokens, data, tokenizer, max_length, run.data) or data
        splits = (data.train, *data.dev.values(), *data.test.values())
        found += token_type_problems(run.data.path, run.model.name, built.module.config, splits)
        found += vocabulary_problems("model.name", run.model.name, built.module, tokenizer, splits, max_length)
    raise_if_any(found)
    assert built and data
    if METHODS[run.method.name].perturbs():
        inputs, _ = Collator(tokenizer, min(max_length, MOST_TRIED), kind_of(data.spec))(data.train[:1], torch.device("cpu"))
        check_perturbable("model.name", run.model.name, built.module, inputs)
    start = Start(_data_digest(data, tokenizer), weights_digest(built), resume_from)
    if start.before:
        raise_if_any(changed_input(start.data_digest, start.weights_digest["frozen"], start.before))
    remarks = (*given_twice(parsed.overrides), *idle(tree or {}))
    options = Options(run, completed, parsed.dry_run, parsed.quiet, parsed.json, remarks)
    if run.train.micro_batch_size == "auto":
        size = recorded_micro_batch(run, resume_from, world.size)
        options = options.at_micro_batch(size or choose(run, completed, data, tokenizer, max_length, world), world)
    return Setup(
        options,
        Data(data, tokenizer, max_length),
        Model(built, built.fresh, built.head, built.unpadded),
        start,
    )


def _data_digest(data: TaskData, tokenizer: Any) -> str:
    digest = hashlib.sha256(data.spec.model_dump_json().encode())
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        # The same digest as of `repr(list(...))`, without building that string in memory.
        digest.update(b"[")
        for i, example in enumerate(examples):
            digest.update(f"{', ' if i else ''}{(example.texts, example.label)!r}".encode())
        digest.update(b"]")
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def _manifest(run: RunConfig, world: World) -> Manifest | None:
    """The manifest of the run's data if it is a prepared folder, otherwise None.

    Raises:
        UserError: if it is not prepared and the run has more ranks than may tokenise it.
    """
    manifest = find_manifest(run.data.path)
    if manifest is None and world.size > MOST_THAT_TOKENISE:
        reason = f"is not prepared, and each of {world.size} ranks would read and tokenise all of it"
        fix = "run `mat-ds prepare <folder>` once with these options, and pass data.path=<folder> model.name=<folder>/model"
        raise UserError(Problem("data.path", run.data.path, reason, fix))
    return manifest


def task_problems(run: RunConfig, spec: TaskSpec) -> Iterator[Problem]:
    """Yields a problem if the method is not defined for the task."""
    kind = kind_of(spec)
    if run.method.needs_distributions and not kind.distributions:
        able = ", ".join(name for name, method in METHODS.items() if not method.Settings.needs_distributions)
        yield Problem(
            "method.name", run.method.name, f"is not defined for {kind.name}, and {spec.name} is one", f"take one of {able}"
        )


def weights_digest(built: Built) -> dict[str, str]:
    """SHA-256 of the `trained` and of the `frozen` parameters; reads one parameter at a time."""
    digests = {"trained": hashlib.sha256(), "frozen": hashlib.sha256()}
    for parameter in built.module.parameters():
        value = value_of(parameter, built.unread).contiguous().numpy().data
        digests["trained" if parameter.requires_grad else "frozen"].update(value)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def size_problems(run: RunConfig, data: TaskData) -> Iterator[Problem]:
    """Yields a problem if there are fewer training examples than a batch has."""
    if 0 < (count := len(data.train)) < (size := run.train.batch_size):
        yield Problem("train.batch_size", size, f"is more than the {count} training examples", f"take at most {count}")
