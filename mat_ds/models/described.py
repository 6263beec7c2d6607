"""What a model folder says of itself beside transformers' own files: the task it answers, and where its inputs are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.config.load import load_run_config
from mat_ds.config.schema import RunConfig
from mat_ds.errors import Problem
from mat_ds.rundir import RunDirectory, write_json
from mat_ds.tasks.registry import TASKS, find_task
from mat_ds.tasks.spec import TaskSpec

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
        written = json.loads((folder / FILE).read_text(encoding="utf-8"))
        spec = TaskSpec.model_validate(written["task"])
        known = TASKS.get(spec.name)  # the built-in task makes its own data
        same = known is not None and known.model_dump() == spec.model_dump()
        return Description(known if known and same else spec, written["max_length"])
    run = run_around(folder)
    return Description(find_task(run.task), run.data.max_length) if run else None


def head_problems(key: str, config: Any, spec: TaskSpec) -> Iterator[Problem]:
    """Whether a model was trained to answer what a task asks.

    Args:
        key: what named the task.
        config: transformers' configuration of the model.
    """
    names = [str(config.id2label[i]).lower() for i in range(config.num_labels)]
    if config.num_labels != spec.outputs:
        yield Problem(key, spec.name, f"has {spec.outputs} outputs, the model {config.num_labels}",
                      "name the task the model was trained for")  # fmt: skip
    elif sorted(names) == sorted(label.lower() for label in spec.labels) and names != [label.lower() for label in spec.labels]:
        yield Problem(key, spec.name, f"numbers its labels {', '.join(spec.labels)}, the model {', '.join(names)}",
                      f"write a task YAML with labels: [{', '.join(names)}]")  # fmt: skip


def run_around(folder: Path) -> RunConfig | None:
    """The options of the run whose `model/` is the folder; None of any other."""
    rundir = RunDirectory(folder.parent)
    return load_run_config(rundir.config, ()) if rundir.holds_a_run and folder.name == rundir.model.name else None
