"""The model folder of a run, and mat_ds.json in it: the model's task and its maximum input length."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.artifacts.calibrated import FILE as TEMPERATURE
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.folder import ADAPTER_CONFIG, read_object
from mat_ds.models.labels import match_labels
from mat_ds.models.source import FOLDER_FIX
from mat_ds.models.tiny import TINY
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.storage.disk import write_json
from mat_ds.storage.folders import restore
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.contradictions import column_problems, label_problems
from mat_ds.tasks.kinds import kind_of, kind_of_model
from mat_ds.tasks.own_data import task_of
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.written import read_spec

FILE = "mat_ds.json"
# Suffixes of the files that determine predictions: weights, configuration, vocabulary.
MODEL_FILES = (".json", ".safetensors", ".bin", ".model", ".txt")


@dataclass(frozen=True)
class Description:
    """The task a model was trained for, and the maximum tokens of its inputs (fewer if the model takes fewer)."""

    spec: TaskSpec
    max_length: int


def write_description(folder: Path, found: Description) -> None:
    """Writes the description into a model folder, so that it can be used without its run."""
    write_json(folder / FILE, {"task": found.spec.model_dump(mode="json"), "max_length": found.max_length})


def read_description(folder: Path) -> Description | None:
    """The description of a model folder: from its mat_ds.json, else from the run around it; None if there is neither."""
    if (folder / FILE).exists():
        spec, max_length = _read_file(folder / FILE)
        known = TASKS.get(spec.name)  # the built-in task also has its generator
        same = known is not None and known.model_dump() == spec.model_dump()
        return Description(known if known and same else spec, max_length)
    run = run_around(folder)
    return Description(task_of(run.task, run.data), run.data.max_length) if run else None


def _read_file(file: Path) -> tuple[TaskSpec, int]:
    """Task and length in mat_ds.json; raises `UserError` if they are invalid."""
    written = read_object("model", file)
    task, max_length = written.get("task"), written.get("max_length")
    fix = "restore the file, or delete it and pass the task"
    if not isinstance(task, dict):
        raise UserError(Problem("model", str(file), "does not describe a task", fix))
    if type(max_length) is not int or max_length < 1:
        raise UserError(Problem("model", str(file), f"has max_length {max_length!r}", fix))
    spec = read_spec(task, f"model {file}")
    raise_if_any(
        Problem(f"model {file}: {problem.key}", problem.value, problem.reason, fix)
        for problem in (*label_problems(spec), *column_problems(spec))
    )
    return spec, max_length


def head_problems(key: str, config: Any, spec: TaskSpec) -> Iterator[Problem]:
    """Yields a problem if a model's head does not fit a task.

    Args:
        key: the option that named the task.
        config: the model's transformers configuration.
    """
    kind, found = kind_of(spec), kind_of_model(config)
    if found.auto_class != kind.auto_class:
        reason = f"is one of {kind.name}, the model one for {found.name}"
        yield Problem(key, spec.name, reason, "name the task the model was trained for")
    elif kind.width(config) != kind.outputs:
        yield Problem(
            key,
            spec.name,
            f"has {kind.outputs} outputs, the model {kind.width(config)}",
            "name the task the model was trained for",
        )
    elif kind.problem_type and config.problem_type not in (None, kind.problem_type):
        yield Problem(
            key,
            spec.name,
            f"is {kind.problem_type.replace('_', ' ')}, the model "
            f"{str(config.problem_type).replace('_', ' ')} (problem_type in its config.json)",
            "name the task the model was trained for, or take another model",
        )
    elif not (match := match_labels(config, spec)).same:
        done = "numbers its labels" if match.order else "calls its labels"
        names = [spec.labels[match.order.index(i)] for i in range(len(match.names))] if match.order else match.names
        fix = f"write a task YAML with labels: [{', '.join(names)}]"
        yield Problem(
            key,
            spec.name,
            f"{done} {', '.join(spec.labels)}, the model {', '.join(match.names)}",
            fix if match.order else f"{fix}, or a label_map that says which is which",
        )


def run_around(folder: Path) -> RunConfig | None:
    """The options of the run that contains this `model/` folder; None for any other folder."""
    rundir = RunDirectory(folder.parent)
    return load_run_config(rundir.config, ()) if rundir.holds_a_run and folder.name == rundir.model.name else None


def base_of(folder: Path) -> tuple[str, str | None] | None:
    """Name and revision of the model that the one in a folder was fine-tuned from, as its adapters or the run around it say;
    None if neither does."""
    if (folder / ADAPTER_CONFIG).exists():
        adapters = read_object("model", folder / ADAPTER_CONFIG)
        return str(adapters.get("base_model_name_or_path")), adapters.get("revision")
    run = run_around(folder)
    return (run.model.name, run.model.revision) if run and run.model.name != TINY else None


def folder_of(path: Path) -> Path:
    """The model folder of a run, or `path` itself if it holds a model.

    Raises:
        UserError: if it is neither, or the run has no model yet.
    """
    rundir = RunDirectory(path)
    if rundir.holds_a_run:
        with suppress(OSError):  # another user's folder may be read-only
            restore(rundir.model)
    if rundir.holds_a_run and rundir.model.is_dir():
        return rundir.model
    if rundir.holds_a_run:
        raise UserError(Problem("model", str(path), "the run has not exported a model", "let it train to its end"))
    if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        reason = "has neither a run nor a model in it" if path.is_dir() else "there is no such folder"
        raise UserError(Problem("model", str(path), reason, FOLDER_FIX))
    return path


def model_sha256(*folders: Path) -> str:
    """SHA-256 of what the predictions of the models in folders depend on."""
    digest = hashlib.sha256()
    for path in (path for folder in folders for path in sorted(folder.iterdir())):
        if path.suffix not in MODEL_FILES or path.name in (FILE, TEMPERATURE):
            continue
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
