"""Reads the rows of a split from local files, a `save_to_disk` folder, the hub, or a built-in generator."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mat_ds.errors import Problem, UserError
from mat_ds.tasks.columns import Columns, read_columns
from mat_ds.tasks.conll import read_conll
from mat_ds.tasks.decoding import batch_rows
from mat_ds.tasks.delimited import read_delimited
from mat_ds.tasks.hub import expect_from_hub
from mat_ds.tasks.lines import read_json_rows, read_jsonl, read_text
from mat_ds.tasks.published import FILES, as_on_the_hub, member_of, published_sources
from mat_ds.tasks.registry import FOLDERS
from mat_ds.tasks.rows import LocatedRow
from mat_ds.tasks.sources import DICT, SAVED, STATE, SUFFIXES, Source, find_source, listing
from mat_ds.tasks.spec import TaskSpec

# The commit in the address of a file on the hub.
COMMIT = re.compile(r"@([0-9a-f]{40})/")
# .tsv has no quoting, as in GLUE's own files.
READERS: dict[str, Callable[[Path], Iterator[LocatedRow]]] = {
    ".jsonl": read_jsonl,
    ".json": read_json_rows,
    ".csv": read_delimited(",", csv.QUOTE_MINIMAL),
    ".tsv": read_delimited("\t", csv.QUOTE_NONE),
    ".conll": read_conll,
    ".txt": read_text,
}


@dataclass
class HubState:
    """Which revision of each dataset is read from the hub.

    Attributes:
        revisions: those asked for; of other datasets it is the main branch.
        commits: what they were, as far as the library says.
    """

    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=dict)

    def record(self, dataset: str, checksums: Mapping[str, Any] | None) -> None:
        """Notes the commit of a dataset, which stands in the addresses of its files."""
        if commit := next((found[1] for address in checksums or () if (found := COMMIT.search(address))), None):
            self.commits[dataset] = commit


def read_split(
    spec: TaskSpec, split: str, data_path: str | None, labelled: bool = True, hub: HubState | None = None
) -> Iterator[LocatedRow] | None:
    """The rows of one split in file order, each with its location for messages.

    Args:
        spec: the task.
        split: name of the split, as on the hub.
        data_path: `data.path` of the run; None: the hub, or the task's generator.
        labelled: whether to read labels.
        hub: the revision to read from the hub, if it is not the main branch; records the commit that it was.

    Returns:
        None if the source exists but has no such split.

    Raises:
        UserError: if the source itself is missing, unreachable or unreadable.
    """
    check_data_path(spec, data_path)
    if spec.generate:
        return ((f"{spec.name}/{split} row {i}", row) for i, row in enumerate(spec.generate(split)))
    if data_path is None:
        return _hub_split(spec, split, labelled, hub or HubState())
    found = [find_source(_folder(spec, data_path), Path(data_path), split)]
    sources = [source for source in (*found, *published_sources(spec, Path(data_path), split)) if source]
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise UserError(Problem(f"{spec.name}/{split}", names, "each hold the whole split", "keep the one that is meant"))
    return _source_rows(sources[0], Columns(spec, labelled)) if sources else None


def check_data_path(spec: TaskSpec, data_path: str | None) -> None:
    """Raises `UserError` if `data.path` cannot have the data of a task. Reads no file, and does not ask the hub."""
    if spec.generate:
        if data_path is not None:
            raise UserError(Problem("data.path", data_path, f"task {spec.name!r} generates its own data",
                                    "leave data.path out, or name the task of your files"))  # fmt: skip
        return
    if data_path is None:
        if spec.hub is None:
            fix = f"pass data.path=<folder>, with the files at <folder>/{spec.name}/<split>.jsonl"
            raise UserError(Problem("data.path", None, f"task {spec.name!r} has no source on the hub", fix))
        return
    root, folder = Path(data_path), _folder(spec, data_path)
    if not root.is_dir():
        raise UserError(Problem("data.path", data_path, "is not a folder", "pass the folder that holds "
                                f"{spec.name}/<split>.jsonl, or leave data.path out to use the hub"))  # fmt: skip
    splits = (*spec.train, *spec.dev, *spec.test)
    published = any(source for split in splits for source in published_sources(spec, root, split))
    if not folder.is_dir() and not (root / DICT).exists() and not published:
        also = f", or {FILES[0]} into {root}" if member_of(spec) else ""
        raise UserError(Problem("data.path", data_path, f"has no folder {folder.name!r}: {listing(root)}",
                                f"put the files of the task at {folder}/<split>.jsonl{also}"))  # fmt: skip


def read_file(key: str, name: str, columns: Columns) -> Iterator[LocatedRow]:
    """The rows of one file that the user names, or of a `save_to_disk` folder, each with its location for messages.

    Args:
        key, name: as in `check_file`.
        columns: those to read.

    Raises:
        UserError: if there is no such file, or it cannot be read.
    """
    return _source_rows(Source(name, check_file(key, name), (Path(name),)), columns)


def check_file(key: str, name: str) -> str:
    """The suffix by which a file that the user names is read.

    Args:
        key: the option that names it.
        name: its path.

    Raises:
        UserError: if there is no such file, or its format is not clear.
    """
    path, suffix = Path(name), Path(name).suffix.lower()
    if path.is_dir():
        if not (path / STATE).exists():
            raise UserError(Problem(key, name, f"is a folder that save_to_disk did not write: {listing(path)}",
                                    "name one file; a folder of splits is data.path=<folder> task=<task>"))  # fmt: skip
        return SAVED
    if not path.exists():
        raise UserError(Problem(key, name, "there is no such file", f"pass the path of a {', '.join(SUFFIXES)} file"))
    if suffix not in SUFFIXES:
        raise UserError(Problem(key, name, "the format is not clear from its name", f"name it {', '.join(SUFFIXES)}"))
    return suffix


def _folder(spec: TaskSpec, data_path: str) -> Path:
    return Path(data_path) / FOLDERS.get(spec.name, spec.name)


def held(spec: TaskSpec, data_path: str | None) -> str:
    """The contents of the task's folder, as the end of a message about a missing split; empty for the hub."""
    folder = _folder(spec, data_path) if data_path else None
    return f"; {listing(folder)}" if folder and folder.is_dir() else ""


def _source_rows(source: Source, columns: Columns) -> Iterator[LocatedRow]:
    spec = columns.spec
    for path in source.paths:
        if source.suffix in READERS:
            rows = read_lines(path, source.suffix, member_of(spec))
            yield from ((where, as_on_the_hub(spec, row)) for where, row in rows)
        else:
            yield from read_columns(path, source.suffix, columns)


def read_lines(path: Path, suffix: str, member: str | None = None) -> Iterator[LocatedRow]:
    """Yields the rows of a file, or of standard input (`-`); raises `UserError` if the file cannot be read.

    Args:
        path: the file.
        suffix: `.jsonl`, `.json`, `.csv`, `.tsv`, `.conll` (words and tags), or `.txt` (one text per line).
        member: the key of the rows in a `.json` file of several tasks.
    """
    try:
        yield from read_json_rows(path, member) if suffix == ".json" else READERS[suffix](path)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(Problem(str(path), None, f"cannot be read: {error}", "mend the file")) from None


def _hub_split(spec: TaskSpec, split: str, labelled: bool, hub: HubState) -> Iterator[LocatedRow] | None:
    assert spec.hub
    expect_from_hub(spec.hub)
    import datasets

    dataset = spec.hub
    try:
        revision = hub.revisions.get(dataset)
        if split not in datasets.get_dataset_split_names(spec.hub, spec.hub_config, revision=revision):
            return None
        found = datasets.load_dataset(spec.hub, spec.hub_config, split=split, revision=revision)
    except Exception as error:  # offline mode, name resolution, proxies and missing caches raise different classes
        raise UserError(
            Problem(
                "data.path",
                None,
                f"{spec.hub} cannot be loaded from the hub ({type(error).__name__}: {error})",
                "on a machine that can reach the hub, run `mat-ds prepare <folder>` with the options of this run, copy "
                "that folder here and pass data.path=<folder>",
            )
        ) from None
    hub.record(dataset, found.download_checksums)
    return _hub_rows(f"{spec.hub}/{split}", found, Columns(spec, labelled, spec.hub_columns))


def _hub_rows(where: str, found: Any, columns: Columns) -> Iterator[LocatedRow]:
    """Yields the rows of a dataset from the hub; decodes only the task's columns."""
    names = columns.names(found.features.arrow_schema, where)
    labels = columns.label_names(names, found.features.to_dict(), where)
    number = 0
    for table in found.select_columns(list(names.values())).with_format("arrow").iter(batch_size=1000):
        for batch in table.to_batches():
            for row in batch_rows(batch, names, columns.spec.label, labels):
                yield f"{where} row {number}", row
                number += 1
