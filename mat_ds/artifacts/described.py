"""What a model folder says of itself beside transformers' own files: the task it answers, and where its inputs are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.folder import read_object
from mat_ds.models.labels import match_labels
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.storage.disk import write_json
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.contradictions import column_problems, label_problems
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.registry import TASKS, find_task
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.written import read_spec

FILE = "mat_ds.json"


@dataclass(frozen=True)
class Description:
    """The task a model was trained for, and the tokens that its inputs are cut at unless the model takes fewer."""

    spec: TaskSpec
    max_length: int


def write_description(folder: Path, found: Description) -> None:
    """Puts it into the folder, so that the model needs its run no more."""
    write_json(folder / FILE, {"task": found.spec.model_dump(mode="json"), "max_length": found.max_length})


def read_description(folder: Path) -> Description | None:
    """What is known of the model in `folder`: what was put there, or what the run says whose `model/` it is."""
    if (folder / FILE).exists():
        spec, max_length = _written(folder / FILE)
        known = TASKS.get(spec.name)  # the built-in task makes its own data
        same = known is not None and known.model_dump() == spec.model_dump()
        return Description(known if known and same else spec, max_length)
    run = run_around(folder)
    return Description(find_task(run.task), run.data.max_length) if run else None


def _written(file: Path) -> tuple[TaskSpec, int]:
    """Task and length as a description says them; raises `UserError` where it says something else."""
    written = read_object("model", file)
    task, max_length = written.get("task"), written.get("max_length")
    fix = "restore the file, or delete it and pass the task"
    if not isinstance(task, dict):
        raise UserError(Problem("model", str(file), "describes no task", fix))
    if type(max_length) is not int or max_length < 1:
        raise UserError(Problem("model", str(file), f"cuts inputs at {max_length!r} tokens", fix))
    spec = read_spec(task, f"model {file}")
    raise_if_any(
        Problem(f"model {file}: {problem.key}", problem.value, problem.reason, fix)
        for problem in (*label_problems(spec), *column_problems(spec))
    )
    return spec, max_length


def head_problems(key: str, config: Any, spec: TaskSpec) -> Iterator[Problem]:
    """Whether a model was trained to answer what a task asks.

    Args:
        key: what named the task.
        config: transformers' configuration of the model.
    """
    kind = kind_of(spec)
    if config.num_labels != kind.outputs:
        yield Problem(
            key,
            spec.name,
            f"has {kind.outputs} outputs, the model {config.num_labels}",
            "name the task the model was trained for",
        )
    elif config.problem_type not in (None, kind.problem_type):
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
    """The options of the run whose `model/` is the folder; None of any other."""
    rundir = RunDirectory(folder.parent)
    return load_run_config(rundir.config, ()) if rundir.holds_a_run and folder.name == rundir.model.name else None
