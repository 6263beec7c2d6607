"""The task of a run on the user's own files, without a task YAML: its labels are found in the file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.config.names import is_name
from mat_ds.errors import Problem, UserError, first_names, raise_if_any
from mat_ds.tasks.columns import Columns, may_hold
from mat_ds.tasks.contradictions import column_problems, label_problems
from mat_ds.tasks.files import read_file
from mat_ds.tasks.found_labels import FoundLabels
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.labels import is_score
from mat_ds.tasks.manifest import find_manifest
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import EVALUATED, TASKS, find_task
from mat_ds.tasks.rows import lacking_columns
from mat_ds.tasks.spec import KINDS_BY_LABELS, TAGS, TOKENS, TaskSpec, kind_by

TEXT, LABEL = ("text",), "label"
# Whole numbers with more different values are scores.
FEW = 20
# More different words are no classes.
MOST_CLASSES = 1000
SHOWN = 5
OTHERWISE = "name the label column with data.label, or list the classes with data.labels ([] if the labels are scores)"
EVERYDAY = ("train", "training", "data")


def task_of(name: str, data: DataConfig) -> TaskSpec:
    """The task of a run: that of its own files, or the one called `name`.

    Raises:
        UserError: if there is no such task, or the files hold none.
    """
    if data.train is None:
        spec = find_task(name)
        if not spec.train:
            fix = f"train on task={EVALUATED[name]}, then mat-ds evaluate RUN task={name}"
            raise UserError(Problem("task", name, "is for evaluation only: it has no training split", fix))
        return spec
    manifest = find_manifest(data.path)
    if manifest is None and data.path:
        fix = "leave one of the two out, or run `mat-ds prepare` and pass the folder that it makes as data.path"
        raise UserError(Problem("data.path", data.path, "holds no prepared data, and data.train names other files", fix))
    if manifest is None:
        return _read_task(name, data)
    for option in ("train", "validation", "dev_share"):
        if (before := manifest.options.get(f"data.{option}")) != (value := getattr(data, option)):
            reason, fix = f"{data.path} was prepared with {before!r}", f"run `mat-ds prepare {data.path}` again, or pass that"
            raise UserError(Problem(f"data.{option}", value, reason, fix))
    if name not in manifest.tasks:
        reason, fix = f"{data.path} was prepared for {', '.join(manifest.tasks)}", f"pass task={next(iter(manifest.tasks))}"
        raise UserError(Problem("task", name, reason, fix))
    given: dict[str, Any] = {"text": data.text, "label": data.label, "weight": data.weight, "labels": data.labels}
    prepared = TaskSpec.model_validate(manifest.tasks[name])
    given |= {"kind": kind_by(data.labels)} if data.labels is not None and prepared.kind in KINDS_BY_LABELS else {}
    return prepared.model_copy(update={key: value for key, value in given.items() if value is not None})


def own_name(path: str) -> str:
    """A name for the task of a file: the file's, or its folder's where the file is called `train`."""
    file = Path(path).absolute()
    stem = file.parent.name if file.stem.lower() in EVERYDAY else file.stem
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    name = name if is_name(name) else "own"
    return f"own-{name}" if name in TASKS else name


def name_problems(name: str) -> Iterator[Problem]:
    """Yields a problem if a task of the user's own files cannot have this name."""
    if name in TASKS or not is_name(name) or name.endswith((".yaml", ".yml")):
        what = "is a task already" if name in TASKS else "is not a name"
        reason = f"{what}, but data.train makes a task of its own"
        yield Problem("task", name, reason, "leave task out, or give it a name of its own; to leave data.train, pass null")


def decision(spec: TaskSpec, data: DataConfig) -> Iterator[tuple[str, str]]:
    """Yields what was decided about the user's own files, as name and meaning; nothing for any other data."""
    if data.train is None:
        return
    if data.labels is None:
        found = f"classes {first_names(spec.labels, SHOWN)}" if spec.labels else "scores, so this is regression"
        found += "" if spec.kind in KINDS_BY_LABELS else f", in lists, so this is {spec.kind}"
        yield "labels", f"{found}; found in {Path(data.train).name} (data.labels=[...] decides)"
    if data.cut_share:
        yield "dev split", f"{100 * data.cut_share:g}% of {Path(data.train).name}, chosen by the texts (data.dev_share)"


@dataclass(frozen=True)
class _Unsettled(Columns):
    """The columns of a file whose classes are not known yet: they keep the names that the file has."""

    def lacking(self, where: str, there: Iterable[object], missing: list[str]) -> Problem:
        return _lacking(self.spec, where, there, missing)

    def settle(self, found: list[str], where: str) -> list[str]:
        return found

    def fits(self, kind: Any, text: bool, column: str) -> bool:
        return may_hold(kind, text, False) or may_hold(kind, text, True)


def _lacking(spec: TaskSpec, where: str, there: Iterable[object], missing: list[str]) -> Problem:
    """The problem that a file lacks columns; says which options name them."""
    fixes = ["data.text=<column> (two as data.text=<column>,<column>)"] if set(missing) & set(spec.text) else []
    fixes += ["data.label=<column>"] if spec.label in missing else []
    fixes += ["data.weight=<column>"] if spec.weight in missing else []
    return lacking_columns(where, there, missing, f"name the file's own with {' and '.join(fixes)}")


def _read_task(name: str, data: DataConfig) -> TaskSpec:
    """Reads a task from its files: every label in them."""
    assert data.train
    conll = Path(data.train).suffix.lower() == ".conll"
    text, label = ((TOKENS,), TAGS) if conll else (TEXT, LABEL)
    columns = TaskSpec(name=name, text=data.text or text, label=data.label or label, weight=data.weight, test=())
    raise_if_any(_renamed(column_problems(columns)))
    found = _labels_in("data.train", data.train, columns, all_rows=data.labels is None)
    if found.soft and not data.labels:
        reason = f"{found.soft:,} rows of {data.train} have a probability for each label, whose names they do not settle"
        raise UserError(Problem("data.labels", data.labels, reason, "list the classes in their order: data.labels=[...]"))
    labels = _classes(found, data.train) if data.labels is None else data.labels
    spec = columns.model_copy(update={"labels": labels, "kind": found.kind(labels, data.train)})
    spec = spec.model_copy(update={"metrics": kind_of(spec).usual_metrics})
    raise_if_any(_renamed(label_problems(spec)))
    if data.validation:
        decided = data.labels is None and bool(labels)
        scored = _labels_in("data.validation", data.validation, columns.unweighted, all_rows=decided)
        if decided:
            raise_if_any(_unseen(found, scored, data))
    return spec


def _renamed(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Problems of a task description, under the names of the options."""
    names = {
        "text": "data.text",
        "label": "data.label",
        "labels": "data.labels",
        "weight": "data.weight",
        "text, label": "data.text, data.label",
    }
    for problem in problems:
        yield Problem(names.get(problem.key, problem.key), problem.value, problem.reason, problem.fix)


def _labels_in(key: str, path: str, spec: TaskSpec, all_rows: bool) -> FoundLabels:
    """The labels in a file; rows that cannot be read are left to the reader of examples.

    Args:
        key, path: as in `read_file`.
        spec: names the columns.
        all_rows: whether to read more than the first row that has all columns, which takes seconds where a file is large.

    Raises:
        UserError: if the file cannot be read, is empty, or lacks a column.
    """
    found = FoundLabels()
    rows, whole, first = 0, False, dict[str, Any]()
    wanted = [*spec.text, *spec.marks]
    for _, row in read_file(key, path, _Unsettled(spec, labelled=True)):
        rows += 1
        if isinstance(row, Mapping):
            first = first or dict(row)
            whole = whole or all(column in row for column in wanted)
            found.add(row.get(spec.label), row.get(spec.text[0]))
        if whole and not all_rows:
            break
    if not rows:
        raise UserError(Problem(key, path, "has no rows", "pass a file with a row for each example, a header first in csv"))
    if first and not whole and (missing := [column for column in wanted if column not in first]):
        raise UserError(_lacking(spec, path, first, missing))
    return found


def _classes(labels: FoundLabels, path: str) -> tuple[str, ...]:
    """The classes that a file's labels stand for, in order; none if they are scores.

    Raises:
        UserError: if they can be neither.
    """
    counts, rows = labels.counts, labels.counts.total()
    scores = [label for label in counts if is_score(label)]
    if not counts:
        raise UserError(Problem("data.label", None, f"no row of {path} has a label", "name the label column with data.label"))
    if len(counts) == 1:
        reason = f"every row of {path} has the label {next(iter(counts))!r}, so there is nothing to learn"
        raise UserError(Problem("data.label", None, reason, OTHERWISE))
    if len(scores) == len(counts):
        whole = all(label.lstrip("-").isdigit() for label in counts)
        return tuple(sorted(counts, key=float)) if labels.lists or (whole and len(counts) <= FEW) else ()
    if len(counts) > MOST_CLASSES or (len(counts) > FEW and 2 * len(counts) > rows):
        words = [label for label in counts if not is_score(label)]
        examples = ", ".join(repr(label[:40]) for label in words[:SHOWN])
        if len(words) < len(scores):
            reason = f"{len(scores):,} labels of {path} are numbers, but {len(words):,} are not: {examples}"
            fix = "mend those rows, or pass data.labels=[] data.bad_rows=skip to leave them out"
            raise UserError(Problem("data.label", None, reason, fix))
        reason = f"{rows:,} rows of {path} have {len(counts):,} different labels, which are no classes: {examples}, ..."
        raise UserError(Problem("data.label", None, reason, OTHERWISE))
    return tuple(sorted(counts))


def _unseen(trained: FoundLabels, scored: FoundLabels, data: DataConfig) -> Iterator[Problem]:
    """Yields a problem if the validation file has labels that the training file has not."""
    if strange := sorted(scored.counts.keys() - trained.counts.keys()):
        count = sum(scored.counts[label] for label in strange)
        shown = first_names(list(map(repr, strange)), SHOWN)
        reason = f"{count:,} of {scored.counts.total():,} rows have a label that no row of {data.train} has: {shown}"
        fix = "mend the labels; if some classes are really missing there, list all with data.labels=[...]"
        yield Problem("data.validation", data.validation, reason, fix)
