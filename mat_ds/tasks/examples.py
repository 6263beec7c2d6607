"""Loads all examples of a task, from its files or from a folder that `mat-ds prepare` wrote, and rejects or skips bad rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mat_ds.errors import Problem, UserError, collect_problems, raise_if_any
from mat_ds.tasks.files import check_data_path, held, read_split
from mat_ds.tasks.manifest import DATA, Manifest, changed_data, find_manifest
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.registry import TASKS
from mat_ds.tasks.rows import (
    UNLABELLED,
    BadRow,
    Example,
    LocatedRow,
    Tally,
    is_unlabelled,
    lacking_columns,
    make_example,
    naming,
)
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tasks.stored import stored_examples

Splits = dict[str, Sequence[Example]]

# Problems shown per kind.
SHOWN = 5


@dataclass(frozen=True)
class TaskData:
    """All examples of a task that a run reads.

    Attributes:
        train: examples of all training splits in file order; a split that an epoch shows several times is repeated.
        dev: examples of each dev split.
        test: examples of each test split that exists.
        tallies: for each `<task>/<split>`, how many rows were read, kept and skipped.
    """

    spec: TaskSpec
    train: Sequence[Example]
    dev: Splits
    test: Splits
    tallies: dict[str, Tally]

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
    """SHA-256 of everything that scores depend on: dev examples, labels, metrics. Scores are comparable if it is equal."""
    return hashlib.sha256(repr((spec.labels, spec.metrics, digest_of(dev))).encode()).hexdigest()


def train_splits(spec: TaskSpec) -> Iterator[tuple[TaskSpec, str, int]]:
    """Yields each training split as (task it belongs to, split, times an epoch shows it)."""
    others = ((TASKS[name], times) for name, times in spec.also_train_on.items())
    for source, times in ((spec, 1), *others):
        yield from ((source, split, times * repeats) for split, repeats in source.train.items())


def check_sources(spec: TaskSpec | None, data_path: str | None) -> Manifest | None:
    """Checks that there can be data where the options say, without reading them.

    Returns:
        The manifest if it is a folder that `mat-ds prepare` wrote.

    Raises:
        UserError: naming each task without data.
    """
    if manifest := find_manifest(data_path):
        return manifest
    found: list[Problem] = []
    for source in {source.name: source for source, *_ in train_splits(spec)}.values() if spec else ():
        collect_problems(found, check_data_path, source, data_path)
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
    reader = _Reader(data)
    train: list[Example] = []
    for source, split, repeats in train_splits(spec):
        left = _left(data.train_limit, train)
        train += (reader.read(source, split, labelled=True, limit=left) * repeats)[:left]
    dev: Splits = {split: reader.read(spec, split, labelled=True, limit=data.eval_limit) for split in spec.dev}
    test: Splits = {
        split: examples
        for split in spec.test
        if (examples := reader.read(spec, split, spec.test_labelled, data.eval_limit, required=False))
    }
    raise_if_any(reader.problems)
    return TaskData(spec, train, dev, test, reader.tallies)


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


def _left(limit: int | None, found: list[Example]) -> int | None:
    return None if limit is None else max(0, limit - len(found))


class _Reader:
    """Reads splits one by one and collects all problems."""

    def __init__(self, data: DataConfig):
        self._data = data
        self.problems: list[Problem] = []
        self.tallies: dict[str, Tally] = {}

    def read(self, spec: TaskSpec, split: str, labelled: bool, limit: int | None, required: bool = True) -> list[Example]:
        if limit == 0:
            return []
        name = f"{spec.name}/{split}"
        try:
            rows = read_split(spec, split, self._data.path, labelled)
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
        name, columns = f"{spec.name}/{split}", [*spec.text, *((spec.label,) if labelled else ())]
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
                examples.append(replace(found, where=where, split=name))
                tally.half_blank += found.half_blank
            elif tally.skip(found.kind) <= SHOWN:
                bad.append((where, found))
            if len(examples) == limit:
                break
        tally.kept = len(examples)
        # If only some rows lack a column, those rows are bad; if all do, the file is.
        self.problems += [lacking] if lacking and not complete else refusals(name, tally, bad, split in spec.test, self._data)
        return examples


def refusals(
    name: str, tally: Tally, bad: Sequence[tuple[str, BadRow]], numbered: bool, options: DataConfig
) -> Iterator[Problem]:
    """Yields the reasons to refuse a split.

    Args:
        name, tally: of the split.
        bad: the first few bad rows of each kind, with their places.
        numbered: whether predictions on the split are numbered by its rows, so that no row may be skipped.
        options: say whether bad rows may be skipped.
    """
    if not tally.kept and not bad:
        yield Problem(name, None, "has no examples", "provide at least one row")
    most = 2 * tally.bad > tally.rows - tally.skipped.get(UNLABELLED, 0)
    if options.bad_rows == "skip" and not numbered and not most:
        return
    fix = "mend or delete the row" + ("" if numbered or most else ", or pass data.bad_rows=skip")
    for where, row in bad:
        yield Problem(where, row.value, row.reason, fix)
    if options.bad_rows == "skip" and bad:
        reason = "the predictions on a test split are numbered by its rows" if numbered else "they are more than half"
        yield Problem(name, f"{tally.bad} of {tally.rows} rows", f"bad rows cannot be skipped here: {reason}", "mend the file")
    for kind, count in tally.skipped.items():
        if kind != UNLABELLED and count > SHOWN:
            yield Problem(name, None, f"{count - SHOWN} more rows are wrong ({count} in all: {kind})", "mend the file")
