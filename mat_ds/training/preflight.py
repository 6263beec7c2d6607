"""Everything that can be found wrong with a run before its ranks meet: options, DeepSpeed JSON, data, model, folders."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from mat_ds.runs.resume import changed_input, find_resume, output_problems, run_of
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

# The ranks of one node. More of them would each read and tokenise all of the data, many times at once from one disk.
MOST_THAT_TOKENISE = 8

EXAMPLE = "deepspeed --module mat_ds.commands.train --ds_config zero2 --recipe cola seed=1"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line of `mat-ds train` and launch/train.py; raises `UserError` where it is not one."""
    parser = Parser(
        prog="mat-ds train",
        description="Fine-tune a language model on DeepSpeed.",
        epilog=f"example: {EXAMPLE}",
        allow_abbrev=False,
        renamed=renamed,
    )
    add_file_arguments(parser)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parser.add_argument("--dry_run", action="store_true", help="do everything up to the first step, write nothing, and stop")
    add_plugin_argument(parser)
    add_display_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="options that win over the recipe")
    return parser.parse_intermixed_args(arguments)


@dataclass
class Prepared:
    """A run whose input has been checked.

    Attributes:
        run, ds_config: the options, and what DeepSpeed gets.
        data, tokenizer, built: what is trained on what; the model until it is taken.
        fresh, head: names of the model's weights that were drawn anew, and what became of its head.
        max_length: tokens an input is cut at.
        resume_from: the checkpoints to continue from, in the order to try them; empty: start afresh.
        data_digest: SHA-256 of all examples and the vocabulary.
        weights_digest: SHA-256 of the trained and of the frozen weights; no checkpoint holds the latter.
        dry_run: whether to stop before the first step.
        quiet, json: what the run shows of itself.
        remarks: what is not wrong with the input but must be known.
    """

    run: RunConfig
    ds_config: dict[str, Any]
    data: TaskData
    tokenizer: Any
    built: Built | None
    fresh: list[str]
    head: str
    max_length: int
    resume_from: list[Path]
    data_digest: str
    weights_digest: dict[str, str]
    dry_run: bool
    quiet: bool
    json: bool
    remarks: tuple[str, ...] = ()

    def take_model(self) -> Built:
        """Hands the model over: kept here too, its weights would outlive the engine that shards them."""
        built, self.built = self.built, None
        assert built is not None
        return built

    @property
    def fingerprint(self) -> str:
        """Equal on two ranks if they were given the same options, data, vocabulary and weights."""
        digest = hashlib.sha256(self.run.model_dump_json().encode())
        rest = [self.ds_config, self.data_digest, self.weights_digest]
        digest.update(json.dumps(rest, sort_keys=True).encode())
        return digest.hexdigest()


def prepare(arguments: Sequence[str], world: World) -> Prepared:
    """From the command line to a run that can start; speaks to no other rank.

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
    # Where parameters are sharded, no rank shall ever hold them all.
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
    digest, weights = _data_digest(data, tokenizer), weights_digest(built)
    raise_if_any(changed_input(digest, weights["frozen"], run_of(resume_from)) if resume_from else ())
    return Prepared(
        run, completed, data, tokenizer, built, built.fresh, built.head, max_length, resume_from, digest, weights,
        parsed.dry_run, parsed.quiet, parsed.json,
        (*given_twice(parsed.overrides), *idle(tree or {}), *([f"{run.model.name}: {built.head}"] if built.head else [])),
    )  # fmt: skip


def _data_digest(data: TaskData, tokenizer: Any) -> str:
    digest = hashlib.sha256(data.spec.model_dump_json().encode())
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        # As of the list's repr, which need not be in memory.
        digest.update(b"[")
        for i, example in enumerate(examples):
            digest.update(f"{', ' if i else ''}{(example.texts, example.label)!r}".encode())
        digest.update(b"]")
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def _manifest(run: RunConfig, world: World) -> Manifest | None:
    """The manifest of the run's data, where it is prepared; many ranks must not have any other."""
    manifest = find_manifest(run.data.path)
    if manifest is None and world.size > MOST_THAT_TOKENISE:
        raise UserError(
            Problem(
                "data.path",
                run.data.path,
                f"is not prepared, and each of {world.size} ranks would read and tokenise all of it",
                "run `mat-ds prepare <folder>` once with the options of this run, and pass data.path=<folder> "
                "model.name=<folder>/model",
            )
        )
    return manifest


def task_problems(run: RunConfig, spec: TaskSpec) -> Iterator[Problem]:
    """Whether the method is defined for the task."""
    kind = kind_of(spec)
    if run.method.needs_distributions and not kind.distributions:
        able = ", ".join(name for name, method in METHODS.items() if not method.Settings.needs_distributions)
        yield Problem(
            "method.name", run.method.name, f"is not defined for {kind.name}, and {spec.name} is one", f"take one of {able}"
        )


def weights_digest(built: Built) -> dict[str, str]:
    """SHA-256 of the trained and of the frozen parameters, one of them in memory at a time."""
    digests = {"trained": hashlib.sha256(), "frozen": hashlib.sha256()}
    for parameter in built.module.parameters():
        value = value_of(parameter, built.unread).contiguous().numpy().data
        digests["trained" if parameter.requires_grad else "frozen"].update(value)
    return {name: digest.hexdigest() for name, digest in digests.items()}


def size_problems(run: RunConfig, data: TaskData) -> Iterator[Problem]:
    """Whether there is a whole batch of examples."""
    if 0 < len(data.train) < run.train.batch_size:
        yield Problem(
            "train.batch_size",
            run.train.batch_size,
            f"is more than the {len(data.train)} training examples",
            f"take at most {len(data.train)}",
        )
