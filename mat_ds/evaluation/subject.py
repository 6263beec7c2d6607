"""What is evaluated: a model, its task and its data, checked before the ranks meet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mat_ds.artifacts.described import FILE, head_problems, read_description, run_around
from mat_ds.artifacts.exported import load_classifier
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.models.build import longest_input
from mat_ds.models.perturb import MOST_TRIED, check_perturbable
from mat_ds.models.vocabulary import vocabulary_problems
from mat_ds.ranks.launch import launcher_problems
from mat_ds.registry.locate import is_local, locate
from mat_ds.tasks.examples import TaskData, digest_of, load_task_data
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import Example, Tally
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.tokens import with_tokens

# What decides a prediction: weights, configuration, vocabulary.
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate and what to evaluate it on.

    Attributes:
        folder: the run folder, the model folder, or what else the model was called.
        model, tokenizer, max_length: the classifier on the CPU; tokens its inputs are cut at.
        spec: the task.
        splits: examples of each split that is labelled, dev before test.
        tallies: how many of their rows were read, kept and left out.
        model_sha256, data_sha256: digests of the model's files, and of all examples with their labels.
    """

    folder: Path
    model: torch.nn.Module
    tokenizer: Any
    max_length: int
    spec: TaskSpec
    splits: dict[str, Sequence[Example]]
    tallies: dict[str, Tally]
    model_sha256: str
    data_sha256: str


def load_subject(model_name: str, options: EvaluationOptions) -> Subject:
    """Reads and checks everything an evaluation needs.

    Raises:
        UserError: naming all that is wrong with the model, the task, the data and where the results are to go.
    """
    source = locate(model_name)
    found = [*launcher_problems(), *_output_problems(model_name, options)]
    known, data_options = read_description(source), _data(options, source)
    if options.task is None and known is None:
        found.append(
            Problem("task", None, f"{model_name} is a model that does not say what it was trained for", "pass task=<task>")
        )
    spec, data = None, None
    try:
        spec = find_task(options.task) if options.task else known.spec if known else None
        data = _labelled_splits(spec, data_options) if spec else None
    except UserError as error:
        found += error.problems
    model = tokenizer = None
    try:
        model, tokenizer = load_classifier(source, getattr(torch, options.dtype), torch.device("cpu"))
    except UserError as error:
        found += error.problems
    if spec and model:
        found += head_problems("task", model.config, spec)
    raise_if_any(found)
    assert spec and data and model and tokenizer
    max_length = min(data_options.max_length, longest_input(model, tokenizer))
    data = with_tokens(data, tokenizer, max_length, data_options)
    splits = data.dev | data.test
    raise_if_any(vocabulary_problems("model", model_name, model, tokenizer, splits.values(), max_length))
    if options.attack.curve and (first := next(iter(splits.values()))):
        inputs, _ = Collator(tokenizer, min(max_length, MOST_TRIED), kind_of(spec))(first[:1], torch.device("cpu"))
        check_perturbable("model", model_name, model, inputs)
    return Subject(
        Path(model_name), model, tokenizer, max_length, spec, splits, data.tallies, _files_digest(source), digest_of(splits)
    )


def _data(options: EvaluationOptions, source: Path) -> DataConfig:
    """The data options of the run, where there is one, or what the model says of its inputs; overridden by those given."""
    run, known = run_around(source), read_description(source)
    own = run.data if run else DataConfig(max_length=known.max_length) if known else DataConfig()
    given = {**options.data.model_dump(), "eval_limit": options.limit}
    return own.model_copy(update={name: value for name, value in given.items() if value is not None})


def _labelled_splits(spec: TaskSpec, data: DataConfig) -> TaskData:
    """Dev splits, and test splits where they are labelled; training examples are not read. Tokens of prepared data are not
    the model's own where it is another, or cuts its inputs elsewhere."""
    scored = spec.model_copy(update={"train": {}, "also_train_on": {}, "test": spec.test if spec.test_labelled else ()})
    return load_task_data(scored, data, with_tokens=False)


def _output_problems(model_name: str, options: EvaluationOptions) -> Iterator[Problem]:
    if options.output_dir is None and not is_local(model_name):
        yield Problem("output_dir", None, f"{model_name} lies in no folder of yours", "pass output_dir=<folder>")
        return
    chosen = Path(options.output_dir) if options.output_dir else Path(model_name) / "evaluation"
    existing = next(path for path in (chosen, *chosen.absolute().parents) if path.exists())
    if options.output_dir and existing == chosen and not (chosen.is_dir() and not any(chosen.iterdir())):
        yield Problem("output_dir", options.output_dir, "exists and is not empty", "name a new folder")
    elif not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Problem("output_dir", options.output_dir, f"{existing} cannot be written to", "name a folder that can be")


def _files_digest(source: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in source.iterdir() if path.suffix in MODEL_FILES and path.name != FILE):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
