"""Rows become examples: texts, a label, a number; whatever cannot become one is named with file and line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mat_ds.config.schema import DataConfig
from mat_ds.errors import Problem, UserError, nearest
from mat_ds.tasks.files import LocatedRow, read_split
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.spec import TaskSpec

# More than this of one kind would bury the message.
SHOWN = 5


@dataclass(frozen=True)
class Example:
    """One sentence or pair of sentences; the label is a class index, a score, or None where it is not known."""

    texts: tuple[str, ...]
    label: int | float | None

    @property
    def length(self) -> int:
        """Characters, which stand in for tokens when examples are grouped by length."""
        return sum(len(text) for text in self.texts)


@dataclass(frozen=True)
class TaskData:
    """All examples of a task that a run will read.

    Attributes:
        train: training examples in file order, of all training splits one after the other.
        dev: examples of each dev split.
        test: examples of each test split that exists.
        skipped: training rows dropped because nobody agreed on their label.
    """

    spec: TaskSpec
    train: list[Example]
    dev: dict[str, list[Example]]
    test: dict[str, list[Example]]
    skipped: int


def load_task_data(spec: TaskSpec, data: DataConfig) -> TaskData:
    """Reads and checks every split of a task.

    Raises:
        UserError: naming every missing split, missing column and wrong label found (the first few of each kind).
    """
    reader = _Reader(data)
    train: list[Example] = []
    for source in (spec, *(TASKS[name] for name in spec.also_train_on)):
        for split in source.train:
            train += reader.read(source, split, labelled=True, limit=_left(data.train_limit, train))
    dev = {split: reader.read(spec, split, labelled=True, limit=data.eval_limit) for split in spec.dev}
    test = {
        split: examples
        for split in spec.test
        if (examples := reader.read(spec, split, spec.test_labelled, data.eval_limit, required=False))
    }
    if reader.problems:
        raise UserError(*reader.problems)
    return TaskData(spec, train, dev, test, reader.skipped)


def _left(limit: int | None, found: list[Example]) -> int | None:
    return None if limit is None else max(0, limit - len(found))


class _Reader:
    """Reads split after split and remembers all that is wrong."""

    def __init__(self, data: DataConfig):
        self.path = data.path
        self.problems: list[Problem] = []
        self.skipped = 0

    def read(self, spec: TaskSpec, split: str, labelled: bool, limit: int | None, required: bool = True) -> list[Example]:
        if limit == 0:
            return []
        try:
            rows = read_split(spec, split, self.path)
            if rows is not None:
                return self._examples(spec, split, labelled, islice(rows, limit))
        except UserError as error:
            self.problems += (p for p in error.problems if p not in self.problems)
            return []
        if required:
            self.problems.append(Problem(
                f"{spec.name}/{split}", None, f"there is no such split under data.path={self.path}",
                f"add {spec.name}/{split}.jsonl (or .csv, .tsv, .parquet), or name the splits that exist in a task YAML",
            ))  # fmt: skip
        return []

    def _examples(self, spec: TaskSpec, split: str, labelled: bool, rows: Iterator[LocatedRow]) -> list[Example]:
        examples, wrong, seen = [], [], 0
        for where, row in rows:
            seen += 1
            if seen == 1 and (missing := [c for c in self._columns(spec, labelled) if c not in row]):
                hints = "; ".join(f"{column}: {nearest(column, map(str, row))}" for column in missing)
                self.problems.append(Problem(where, ", ".join(map(str, row)), f"lacks the column {', '.join(missing)}", hints))
                return []
            if spec.skip_unlabelled and labelled and row.get(spec.label) in (-1, "-1", "-"):
                self.skipped += 1
                continue
            texts = tuple(row.get(column) for column in spec.text)
            label, reason = _label(spec, row.get(spec.label)) if labelled else (None, None)
            if not all(isinstance(text, str) for text in texts):
                reason = f"{' or '.join(spec.text)} is no text"
            if reason:
                wrong.append(Problem(where, row.get(spec.label), reason, "mend or delete the row"))
            else:
                examples.append(Example(texts, label))  # type: ignore[arg-type]
        self.problems += wrong[:SHOWN]
        if len(wrong) > SHOWN:
            self.problems.append(Problem(f"{spec.name}/{split}", None, f"{len(wrong) - SHOWN} more rows are wrong",
                                         "mend the file"))  # fmt: skip
        if not examples and not wrong:
            self.problems.append(Problem(f"{spec.name}/{split}", None, "holds no example", "provide at least one row"))
        return examples

    @staticmethod
    def _columns(spec: TaskSpec, labelled: bool) -> list[str]:
        return [*spec.text, *((spec.label,) if labelled else ())]


def _label(spec: TaskSpec, value: Any) -> tuple[int | float | None, str | None]:
    """The label that `value` stands for, or why it stands for none."""
    if spec.regression:
        try:
            score = float(value)
        except (TypeError, ValueError):
            return None, "the label is no number"
        low, high = spec.range or (float("-inf"), float("inf"))
        fits = math.isfinite(score) and low <= score <= high
        return (score, None) if fits else (None, f"the score is outside [{low:g}, {high:g}]")
    value = spec.label_map.get(value, value) if isinstance(value, str) else value
    if isinstance(value, float) and value.is_integer():  # what a table with a missing value makes of integers
        value = int(value)
    if str(value) in spec.labels and not isinstance(value, bool):
        return spec.labels.index(str(value)), None
    text = str(value)
    number = int(text) if text.isdecimal() else -1
    if 0 <= number < len(spec.labels):
        return number, None
    return None, f"the label is none of {', '.join(f'{i} ({name})' for i, name in enumerate(spec.labels))}"
