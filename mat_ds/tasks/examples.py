"""Loads all examples of a task, from its files or from a folder that `mat-ds prepare` wrote, and rejects or skips bad rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mat_ds.errors import Problem, UserError, collect_problems, raise_if_any
from mat_ds.tasks.columns import Columns
from mat_ds.tasks.dev_split import cut_dev_split
from mat_ds.tasks.example import BadRow, Example, whole_examples
from mat_ds.tasks.files import HubState, check_data_path, check_file, held, read_file, read_split
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.labels import label_text
from mat_ds.tasks.manifest import DATA, Manifest, changed_data, find_manifest
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.rows import (
    SHOWN,
    UNLABELLED,
    LocatedRow,
    Tally,
    is_unlabelled,
    lacking_columns,
    make_example,
    naming,
    refusals,
)
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import stored_examples

Splits = dict[str, Sequence[Example]]


@dataclass(frozen=True)
class TaskData:
    """All examples of a task that a run reads.

    Attributes:
        train: examples of all training splits in file order; a split that an epoch shows several times is repeated.
        dev: examples of each dev split.
        test: examples of each test split that exists.
        tallies: for each `<task>/<split>`, how many rows were read, kept and skipped.
        commits: the commit of each dataset that came from the hub.
    """

    spec: TaskSpec
    train: Sequence[Example]
    dev: Splits
    test: Splits
    tallies: dict[str, Tally]
    commits: dict[str, str] = field(default_factory=dict)

    @property
    def skipped(self) -> dict[str, dict[str, int]]:
        """Number of skipped rows, by split and kind."""
        return {split: tally.skipped for split, tally in self.tallies.items() if tally.skipped}


def digest_of(splits: Mapping[str, Sequence[Example]]) -> str:
    """SHA-256 of the splits' texts and labels."""
    digest = hashlib.sha256()
    for split, examples in splits.items():
        digest.update(repr((split, [(example.texts, example.label) for example in examples])).encode())
    return digest.hexdigest()


def dev_fingerprint(spec: TaskSpec, dev: Splits) -> str:
    """SHA-256 of everything that scores depend on: dev examples, whatever they are cut into, labels, metrics. Scores are
    comparable if it is equal."""
    whole = {split: whole_examples(examples) for split, examples in dev.items()}
    return hashlib.sha256(repr((spec.labels, spec.metrics, digest_of(whole))).encode()).hexdigest()


def train_splits(spec: TaskSpec) -> Iterator[tuple[TaskSpec, str, int]]:
    """Yields each training split as (task it belongs to, split, times an epoch shows it)."""
    others = ((TASKS[name], times) for name, times in spec.also_train_on.items())
    for source, times in ((spec, 1), *others):
        yield from ((source, split, times * repeats) for split, repeats in source.train.items())


def check_sources(spec: TaskSpec | None, data: DataConfig) -> Manifest | None:
    """Checks that there can be data where the options say, without reading them.

    Returns:
        The manifest if it is a folder that `mat-ds prepare` wrote.

    Raises:
        UserError: naming each task without data.
    """
    if manifest := find_manifest(data.path):
        return manifest
    found: list[Problem] = []
    if data.train or data.validation:
        for split in ("train", "validation"):
            if file := data.file_of(split):
                collect_problems(found, check_file, f"data.{split}", file)
        raise_if_any(found)
        return None
    for source in {source.name: source for source, *_ in train_splits(spec)}.values() if spec else ():
        collect_problems(found, check_data_path, source, data.path)
    raise_if_any(dict.fromkeys(found))
    return None


def load_task_data(spec: TaskSpec, data: DataConfig, with_tokens: bool = True) -> TaskData:
    """Reads and checks every split of a task.

    Args:
        spec, data: the task and the data options.
        with_tokens: whether examples of prepared data carry their tokens.

    Raises:
        UserError: naming every missing split, missing column and bad row (the first few of each kind), or what has changed
            since the data was prepared.
    """
    if manifest := find_manifest(data.path):
        return _stored(manifest, spec, data, with_tokens)
    reader = _Reader(data, spec.hub)
    if data.cut_share:
        return _load_and_cut(reader, spec, data, data.cut_share)
    train: list[Example] = []
    for source, split, repeats in train_splits(spec):
        left = _left(data.train_limit, train)
        train += (reader.read(source, split, labelled=True, limit=left) * repeats)[:left]
    scored = spec.unweighted
    dev: Splits = {split: reader.read(scored, split, labelled=True, limit=data.eval_limit) for split in spec.dev}
    test: Splits = {
        split: examples
        for split in spec.test
        if (examples := reader.read(scored, split, spec.test_labelled, data.eval_limit, required=False))
    }
    raise_if_any(reader.problems)
    return TaskData(spec, train, dev, test, reader.tallies, reader.hub.commits)


def _stored(manifest: Manifest, spec: TaskSpec, data: DataConfig, with_tokens: bool) -> TaskData:
    """`load_task_data` from a folder that `mat-ds prepare` wrote; limits keep the first of the prepared examples."""
    assert data.path
    folder, sources = Path(data.path), list(train_splits(spec))
    raise_if_any(changed_data(manifest, folder, spec, [source for source, *_ in sources], data))

    def read(part: str, limit: int | None, *names: str) -> Sequence[Example]:
        paths = [folder / DATA / part / name for name in names]
        return stored_examples(
            paths, limit, with_tokens, spec, part != "test" or spec.test_labelled, manifest.tokenizer["inputs"]
        )

    trained = [f"{source.name}/{split}" for source, split, repeats in sources for _ in range(repeats)]
    train = read("train", data.train_limit, *trained) if trained else []
    dev = {split: read("dev", data.eval_limit, f"{spec.name}/{split}") for split in spec.dev}
    there = [split for split in spec.test if (folder / DATA / "test" / spec.name / split).is_dir()]
    test = {split: read("test", data.eval_limit, f"{spec.name}/{split}") for split in there}
    used = [*trained, *(f"{spec.name}/{split}" for split in (*dev, *test))]
    return TaskData(spec, train, dev, test, {name: manifest.splits.get(name, Tally()) for name in used})


def _load_and_cut(reader: _Reader, spec: TaskSpec, data: DataConfig, share: float) -> TaskData:
    """`load_task_data` from one file, of which a part is kept for validation."""
    (split,), every = spec.dev, reader.read(spec, "train", labelled=True, limit=None)
    raise_if_any(reader.problems)
    train, dev = cut_dev_split(every, f"{spec.name}/{split}", share, kind_of(spec).stratified, reader.tallies)
    return TaskData(spec, train[: data.train_limit] if spec.train else [], {split: dev[: data.eval_limit]}, {}, reader.tallies)


def _left(limit: int | None, found: list[Example]) -> int | None:
    return None if limit is None else max(0, limit - len(found))


class _Reader:
    """Reads splits one by one and collects all problems."""

    def __init__(self, data: DataConfig, dataset: str | None):
        self._data = data
        self.hub = HubState({dataset: data.revision} if dataset and data.revision else {})
        self.problems: list[Problem] = []
        self.tallies: dict[str, Tally] = {}

    def read(self, spec: TaskSpec, split: str, labelled: bool, limit: int | None, required: bool = True) -> list[Example]:
        if limit == 0:
            return []
        name = f"{spec.name}/{split}"
        try:
            file = self._data.file_of(split)
            rows = (
                read_file(f"data.{split}", file, Columns(spec, labelled))
                if file
                else read_split(spec, split, self._data.path, labelled, self.hub)
            )
            if rows is not None:
                return self._examples(spec, split, labelled, rows, limit)
        except UserError as error:
            self.problems += (p for p in error.problems if p not in self.problems)
            return []
        if required:
            self.problems.append(
                Problem(
                    name,
                    None,
                    f"there is no such split under data.path={self._data.path}{held(spec, self._data.path)}",
                    f"add {name}.jsonl (or .json, .csv, .tsv, .parquet), or name the splits that exist in a task YAML",
                )
            )
        return []

    def _examples(
        self, spec: TaskSpec, split: str, labelled: bool, rows: Iterator[LocatedRow], limit: int | None
    ) -> list[Example]:
        name, columns = f"{spec.name}/{split}", [*kind_of(spec).columns, *(spec.marks if labelled else ())]
        tally = self.tallies[name] = Tally()
        examples: list[Example] = []
        bad: list[tuple[str, BadRow]] = []
        lacking: Problem | None = None
        complete = False
        for where, row in rows:
            tally.rows += 1
            if isinstance(row, dict):
                missing = [column for column in columns if column not in row]
                complete |= not missing
                if missing and not lacking:
                    lacking = lacking_columns(where, row, missing, naming(spec, missing))
                if labelled and is_unlabelled(spec, row):
                    tally.skip(UNLABELLED)
                    continue
            found = row if isinstance(row, BadRow) else make_example(spec, row, labelled)
            if isinstance(found, Example):
                group = label_text(row.get(spec.group)) if spec.group and isinstance(row, dict) else None
                examples.append(replace(found, where=where, split=name, group=group))
                tally.half_blank += found.half_blank
            elif tally.skip(found.kind) <= SHOWN:
                bad.append((where, found))
            if len(examples) == limit:
                break
        tally.kept = len(examples)
        # If only some rows lack a column, those rows are bad; if all do, the file is.
        self.problems += [lacking] if lacking and not complete else refusals(name, tally, bad, split in spec.test, self._data)
        return examples
