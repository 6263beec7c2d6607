"""What is evaluated: the model of a run folder or a model folder, its task and its data, checked before the ranks meet."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from mat_ds.config.load import load_run_config
from mat_ds.config.schema import DataConfig, RunConfig
from mat_ds.engine.distributed import launcher_problems
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.build import longest_input
from mat_ds.models.exported import load_exported
from mat_ds.robustness.settings import EvaluationOptions
from mat_ds.rundir import RunDirectory
from mat_ds.tasks.examples import TaskData, load_task_data
from mat_ds.tasks.registry import find_task
from mat_ds.tasks.rows import Example, Tally
from mat_ds.tasks.spec import TaskSpec

# What decides a prediction: weights, configuration, vocabulary.
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")
FOLDER_FIX = "pass a run folder (config.yaml and model/), or a folder that save_pretrained has written a classifier to"


@dataclass(frozen=True)
class Subject:
    """A model to evaluate and what to evaluate it on.

    Attributes:
        folder: the run folder, or the model folder.
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


def load_subject(folder: Path, options: EvaluationOptions) -> Subject:
    """Reads and checks everything an evaluation needs.

    Raises:
        UserError: naming all that is wrong with the folder, the task, the data and where the results are to go.
    """
    run = _run_of(folder)
    found = [*launcher_problems(), *_output_problems(folder, options)]
    task = options.task or (run.task if run else None)
    if task is None:
        found.append(Problem("task", None, f"{folder} is a model folder, which does not say what it was trained for",
                             "pass task=<task>"))  # fmt: skip
    spec, data = None, None
    if task:
        try:
            spec = find_task(task)
            data = _labelled_splits(spec, _data(options, run))
        except UserError as error:
            found += error.problems
    model = tokenizer = None
    source = RunDirectory(folder).model if run else folder
    try:
        model, tokenizer = _load(source, getattr(torch, options.dtype))
    except UserError as error:
        found += error.problems
    if spec and model:
        found += _head_problems(model.config, spec, source)
    raise_if_any(found)
    assert spec and data and model and tokenizer
    splits = data.dev | data.test
    max_length = min(_data(options, run).max_length, longest_input(model, tokenizer))
    return Subject(
        folder, model, tokenizer, max_length, spec, splits, data.tallies, _files_digest(source), _examples_digest(splits)
    )


def _run_of(folder: Path) -> RunConfig | None:
    """The options of the run in `folder`; None for a model folder.

    Raises:
        UserError: if it is neither, or the run has not come as far as a model.
    """
    rundir = RunDirectory(folder)
    if rundir.holds_a_run and rundir.model.is_dir():
        return load_run_config(rundir.config, ())
    if rundir.holds_a_run:
        raise UserError(Problem("folder", str(folder), "the run has not exported a model", "let it train to its end"))
    if not {"config.json", "adapter_config.json"} & ({f.name for f in folder.iterdir()} if folder.is_dir() else set()):
        reason = "holds neither a run nor a model" if folder.is_dir() else "there is no such folder"
        raise UserError(Problem("folder", str(folder), reason, FOLDER_FIX))
    return None


def _data(options: EvaluationOptions, run: RunConfig | None) -> DataConfig:
    """The data options of the run, where there is one, overridden by those given."""
    given = {**options.data.model_dump(), "eval_limit": options.limit}
    return (run.data if run else DataConfig()).model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )


def _labelled_splits(spec: TaskSpec, data: DataConfig) -> TaskData:
    """Dev splits, and test splits where they are labelled; training examples are not read. Tokens of prepared data are not
    the model's own where it is another, or cuts its inputs elsewhere."""
    scored = spec.model_copy(update={"train": (), "also_train_on": (), "test": spec.test if spec.test_labelled else ()})
    return load_task_data(scored, data, with_tokens=False)


def _load(source: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model on the CPU and its tokenizer."""
    try:
        model: Any = load_exported(source, dtype, torch.device("cpu"))
        tokenizer = AutoTokenizer.from_pretrained(source)
    except UserError:
        raise
    except Exception as error:
        reason = f"its model cannot be loaded ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        raise UserError(Problem("folder", str(source), reason, FOLDER_FIX)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem("folder", str(source), "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    if model.config.pad_token_id is None:  # by which decoders find the last real token
        model.config.pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False)
    return model, tokenizer


def _head_problems(config: Any, spec: TaskSpec, source: Path) -> Iterator[Problem]:
    """Whether the model was trained to answer what the task asks."""
    saved = source / "config.json"
    written = json.loads(saved.read_text(encoding="utf-8")).get("architectures") if saved.exists() else None
    names = [str(config.id2label[i]).lower() for i in range(config.num_labels)]
    if written and not any("ForSequenceClassification" in name for name in written):
        yield Problem("folder", str(source), "its model was saved without a classification head", FOLDER_FIX)
    elif config.num_labels != spec.outputs:
        yield Problem("task", spec.name, f"has {spec.outputs} outputs, the model {config.num_labels}",
                      "name the task the model was trained for")  # fmt: skip
    elif sorted(names) == sorted(spec.labels) and names != list(spec.labels):
        yield Problem("task", spec.name, f"numbers its labels {', '.join(spec.labels)}, the model {', '.join(names)}",
                      f"write a task YAML with labels: [{', '.join(names)}]")  # fmt: skip


def _output_problems(folder: Path, options: EvaluationOptions) -> Iterator[Problem]:
    chosen = Path(options.output_dir) if options.output_dir else folder / "evaluation"
    existing = next(path for path in (chosen, *chosen.absolute().parents) if path.exists())
    if options.output_dir and existing == chosen and not (chosen.is_dir() and not any(chosen.iterdir())):
        yield Problem("output_dir", options.output_dir, "exists and is not empty", "name a new folder")
    elif not (existing.is_dir() and os.access(existing, os.W_OK)):
        yield Problem("output_dir", options.output_dir, f"{existing} cannot be written to", "name a folder that can be")


def _files_digest(source: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in source.iterdir() if path.suffix in MODEL_FILES):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _examples_digest(splits: Mapping[str, Sequence[Example]]) -> str:
    digest = hashlib.sha256()
    for split, examples in splits.items():
        digest.update(repr((split, [(example.texts, example.label) for example in examples])).encode())
    return digest.hexdigest()
