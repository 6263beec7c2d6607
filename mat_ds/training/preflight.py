"""Loads what a run needs before its ranks connect, and checks it: DeepSpeed's settings, data, model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch

from mat_ds.engine.ds_config import ds_config_problems
from mat_ds.engine.graphs import graph_problems
from mat_ds.errors import Problem, collect_problems, raise_if_any
from mat_ds.methods import METHODS
from mat_ds.models.build import Built, build_model, build_tokenizer, longest_input
from mat_ds.models.depth import step_size_problems
from mat_ds.models.first_layer import layer_problems
from mat_ds.models.packing import LENGTH_STEP
from mat_ds.models.perturb import MOST_TRIED, check_perturbable
from mat_ds.models.unread import value_of
from mat_ds.models.vocabulary import token_type_problems, vocabulary_problems
from mat_ds.ranks.launch import card_problems
from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_count
from mat_ds.runs.options import RunConfig, size_problems
from mat_ds.runs.resume import changed_input, recorded_micro_batch
from mat_ds.runs.steps import snapshot_problems
from mat_ds.tasks.examples import TaskData, load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.loss import trained_loss
from mat_ds.tasks.manifest import changed_tokens
from mat_ds.tasks.ranking import undefined_problems
from mat_ds.tasks.tokens import with_tokens
from mat_ds.terminal.waiting import waiting
from mat_ds.training.request import Request
from mat_ds.training.setup import Data, Model, Options, Setup, Start

# Chooses the micro-batch of a run, given its options, DeepSpeed configuration, data, tokenizer and maximum length, on a rank.
Choose = Callable[[RunConfig, dict[str, Any], TaskData, Any, int, World], int]


def load_setup(request: Request, world: World, choose: Choose) -> Setup:
    """Loads everything that a request names, and checks it; communicates with no other rank.

    Args:
        request: what was asked for.
        world: this rank.
        choose: chooses the micro-batch of a new run that names none.

    Raises:
        UserError: naming every problem found.
    """
    run, spec, completed, manifest = request.run, request.spec, request.ds_config, request.manifest
    found: list[Problem] = [*card_problems(world.local_rank), *ds_config_problems(request.tree, run, world)]
    speaks = world.rank == 0 and not request.parsed.quiet
    with waiting(f"reading the data of {spec.name}", speaks):
        data = collect_problems(found, load_task_data, spec, run.data)
    texts = (text for example in (data.train if data else ()) for text in example.texts)
    with waiting(f"loading the tokenizer of {run.model.name}", speaks):
        tokenizer = collect_problems(found, build_tokenizer, run.model, texts)
    if tokenizer and (lacking := [*kind_of(spec).tokenizer_problems("model.name", run.model.name, tokenizer)]):
        found, tokenizer = found + lacking, None
    found += (*size_problems(run, data), *undefined_problems(data.spec, data.dev)) if data else ()
    found += snapshot_problems(run, len(data.train), chain_count(run, world)) if data else ()
    # At ZeRO-3 weights are left in their files, so that no rank needs memory for all of them.
    sharded = completed.get("zero_optimization", {}).get("stage") == 3
    with waiting(f"loading {run.model.name}", speaks):
        built = collect_problems(found, build_model, run.model, spec, tokenizer, run.seed, sharded) if tokenizer else None
    if built:
        found += step_size_problems(built.module, run.optimizer)
        found += layer_problems(built.module, run.model.name, run.method)
        found += graph_problems(run.model, built)
    max_length = min(run.data.max_length, longest_input(built.module, tokenizer)) if built else 0
    if manifest and built:
        found += changed_tokens(manifest, str(run.data.path), tokenizer, run.model.name, max_length)
    if data and built:
        with waiting(f"counting the tokens of {spec.name}", speaks):
            data = collect_problems(found, with_tokens, data, tokenizer, max_length, run.data) or data
        splits = (data.train, *data.dev.values(), *data.test.values())
        found += token_type_problems(run.data.path, run.model.name, built.module.config, splits)
        found += vocabulary_problems(
            "model.name", run.model.name, built.module, tokenizer, splits, max_length, kind_of(data.spec)
        )
    objective = collect_problems(found, trained_loss, run.loss, spec, data.train) if data else None
    raise_if_any(found)
    assert built and data
    if METHODS[run.method.name].perturbs():
        inputs, _ = Collator(tokenizer, min(max_length, MOST_TRIED), kind_of(data.spec))(data.train[:1], torch.device("cpu"))
        check_perturbable("model.name", run.model.name, built.module, inputs)
    start = Start(_data_digest(data, tokenizer), weights_digest(built), request.checkpoints)
    if start.before:
        raise_if_any(changed_input(start.data_digest, start.weights_digest["frozen"], start.before))
    parsed = request.parsed
    options = Options(run, completed, parsed.dry_run, parsed.quiet, parsed.json, request.remarks)
    if run.train.micro_batch_size == "auto":
        size = recorded_micro_batch(run, request.checkpoints, world.size)
        options = options.at_micro_batch(size or choose(run, completed, data, tokenizer, max_length, world), world)
    return Setup(
        options,
        Data(data, tokenizer, max_length, objective, LENGTH_STEP if run.model.compile == "graphs" else 1),
        Model(built, built.fresh, built.head, built.unpadded),
        start,
    )


def _data_digest(data: TaskData, tokenizer: Any) -> str:
    digest = hashlib.sha256(data.spec.model_dump_json().encode())
    for examples in (data.train, *data.dev.values(), *data.test.values()):
        # The same digest as of `repr(list(...))`, without building that string in memory.
        digest.update(b"[")
        for i, example in enumerate(examples):
            digest.update(f"{', ' if i else ''}{example.content!r}".encode())
        digest.update(b"]")
    digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
    return digest.hexdigest()


def weights_digest(built: Built) -> dict[str, str]:
    """SHA-256 of the `trained` and of the `frozen` parameters; reads one parameter at a time."""
    digests = {"trained": hashlib.sha256(), "frozen": hashlib.sha256()}
    for parameter in built.module.parameters():
        value = value_of(parameter, built.unread).contiguous().numpy().data
        digests["trained" if parameter.requires_grad else "frozen"].update(value)
    return {name: digest.hexdigest() for name, digest in digests.items()}
