"""Loads and checks what is evaluated: model, task and data, before ranks communicate."""

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

# Suffixes of the files that determine predictions: weights, configuration, vocabulary.
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")


@dataclass(frozen=True)
class Subject:
    """A model to evaluate, and its data.

    Attributes:
        folder: the run or model folder, or the model's name.
        model, tokenizer, max_length: the classifier on the CPU; maximum tokens of its inputs.
        spec: the task.
        splits: examples of each labelled split, dev before test.
        tallies: row counts of each split.
        model_sha256, data_sha256: digests of the model's files, and of all examples with labels.
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
    """Loads and checks everything an evaluation needs.

    Raises:
        UserError: naming every problem with model, task, data and output folder.
    """
    source = locate(model_name)
    found = [*launcher_problems(), *_output_problems(model_name, options)]
    known, data_options = read_description(source), _data(options, source)
    if options.task is None and known is None:
        found.append(Problem("task", None, f"{model_name} does not say what task it was trained for", "pass task=<task>"))
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
    """The data options: given ones, else those of the model's run, else the model's own maximum length."""
    run, known = run_around(source), read_description(source)
    own = run.data if run else DataConfig(max_length=known.max_length) if known else DataConfig()
    given = {**options.data.model_dump(), "eval_limit": options.limit}
    return own.model_copy(update={name: value for name, value in given.items() if value is not None})


def _labelled_splits(spec: TaskSpec, data: DataConfig) -> TaskData:
    """Dev splits, and test splits if they are labelled. Tokens of prepared data are not used, since the model or its maximum
    length may differ."""
    scored = spec.model_copy(update={"train": {}, "also_train_on": {}, "test": spec.test if spec.test_labelled else ()})
    return load_task_data(scored, data, with_tokens=False)


def _output_problems(model_name: str, options: EvaluationOptions) -> Iterator[Problem]:
    if options.output_dir is None and not is_local(model_name):
        yield Problem("output_dir", None, f"{model_name} is not a folder of yours", "pass output_dir=<folder>")
        return
    chosen = Path(options.output_dir) if options.output_dir else Path(model_name) / "evaluation"
    existing = next(path for path in (chosen, *chosen.absolute().parents) if path.exists())
    if options.output_dir and existing == chosen and not (chosen.is_dir() and not any(chosen.iterdir())):
        yield Problem("output_dir", options.output_dir, "exists and is not empty", "name a new folder")
    elif not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Problem("output_dir", options.output_dir, f"{existing} cannot be written to", "name a writable folder")


def _files_digest(source: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in source.iterdir() if path.suffix in MODEL_FILES and path.name != FILE):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
