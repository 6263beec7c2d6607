"""The manifest of a folder that `mat-ds prepare` wrote: how examples and tokens were made, digests of all files, and checks
that a run would make the same."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mat_ds.config.section import Section
from mat_ds.config.versions import version_of
from mat_ds.errors import Problem, UserError
from mat_ds.storage.disk import write_json
from mat_ds.storage.reading import load_json, sha256_of_file
from mat_ds.tasks.example import excerpt
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.rows import Tally
from mat_ds.tasks.spec import TaskSpec

MANIFEST, DATA, MODEL = "manifest.json", "data", "model"
FORMAT = "mat_ds_prepared"
# With a damaged version mark, a file with at least this many known keys still counts as a manifest.
TELLING = 4
PACKAGES = ("mat_ds", "transformers", "tokenizers", "datasets", "pyarrow")

# Keys of a task that decide how a row becomes an example.
DECIDING = (
    "kind", "text", "choices", "label", "labels", "label_map", "range", "weight", "unanswerable", "skip_unlabelled",
    "test_labelled",
)  # fmt: skip


class StoredFile(Section):
    bytes: int
    sha256: str


class Manifest(Section):
    """How a prepared folder was made."""

    mat_ds_prepared: Literal[1] = Field(1, description="version of this format, and the mark of a prepared folder")
    date: str
    versions: dict[str, str]
    options: dict[str, Any] = Field(description="of the run it was prepared for, as far as they went into it")
    tasks: dict[str, dict[str, Any]] = Field(description="the task and those it also trains on")
    task_sha256: str
    tokenizer: dict[str, Any] = Field(description="what decides how it tokenises, as `describe_tokenizer` finds it")
    max_length: int = Field(description="tokens the inputs are cut at")
    splits: dict[str, Tally] = Field(description="rows of each `<task>/<split>`")
    files: dict[str, StoredFile]

    @field_validator("tasks")
    @classmethod
    def _tasks(cls, tasks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Validates tasks in an untrusted manifest."""
        return {name: TaskSpec.model_validate_json(json.dumps(task)).model_dump(mode="json") for name, task in tasks.items()}

    @field_validator("tokenizer")
    @classmethod
    def _tokenizer(cls, described: dict[str, Any]) -> dict[str, Any]:
        names = described.get("inputs")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("tokenizer: has no inputs")
        return described

    @model_validator(mode="after")
    def _names(self) -> Manifest:
        """Rejects names that would lead out of the folder."""
        for name in (*self.splits, *self.files):
            if name.startswith("/") or not all(part and part.strip(".") for part in name.split("/")) or "\0" in name:
                raise ValueError(f"{name[:120]!r} is not a path within the folder")
        return self


def find_manifest(path: str | None) -> Manifest | None:
    """The manifest of a prepared folder; None for any other folder.

    Raises:
        UserError: if it is damaged, or of another version.
    """
    file = Path(path) / MANIFEST if path else None
    if file is None or not os.path.lexists(file) or file.is_dir():
        return None
    again = f"copy the folder again, or run `mat-ds prepare {path}` again"
    try:
        tree = load_json(file)
        if not isinstance(tree, dict) or (FORMAT not in tree and len(tree.keys() & Manifest.model_fields.keys()) < TELLING):
            return None
        if tree.get(FORMAT) != Manifest.model_fields[FORMAT].default:
            raise UserError(Problem(str(file), excerpt(tree.get(FORMAT)), "was prepared by another version of mat_ds", again))
        return Manifest.model_validate_json(json.dumps(tree))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(Problem(str(file), None, f"cannot be read: {str(error)[:1000]}", again)) from None


def write_manifest(
    folder: Path, tasks: Iterable[TaskSpec], options: dict[str, Any], tokenizer: Any, max_length: int, splits: dict[str, Tally]
) -> None:
    """Writes a manifest of all files in a folder.

    Args:
        tasks: the task, and those it also trains on.
        options: the run's options that were used.
        tokenizer, max_length: used to make the tokens.
        splits: row counts of each split.
    """
    described = {task.name: task.model_dump(mode="json") for task in tasks}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions={name: version_of(name) for name in PACKAGES},
        options=options,
        tasks=described,
        task_sha256=_sha256(described),
        tokenizer=describe_tokenizer(tokenizer),
        max_length=max_length,
        splits=splits,
        files={
            str(path.relative_to(folder)): StoredFile(bytes=path.stat().st_size, sha256=sha256_of_file(path)) for path in files
        },
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Everything that decides a tokenizer's output and padding, as values or SHA-256.

    Saving and loading a tokenizer does not change its description. The truncation and padding settings of its last call,
    which it remembers, are not included.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    probe = [tokenizer(text)["input_ids"] for text in ("The keys near the cabinets ARE golden.", "naïve 東京 😀 1,000\t#")]
    kept = {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
    return {
        "vocabulary_sha256": _sha256(tokenizer.get_vocab()),
        "rules_sha256": _sha256([kept, probe]),
        "inputs": sorted(tokenizer.model_input_names),
        "pad_token_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }


def damage(manifest: Manifest, folder: Path, contents: bool = False) -> Iterator[Problem]:
    """Yields a problem for each file of a prepared folder that is missing or has changed.

    Args:
        contents: whether to compare digests; otherwise only sizes, which is fast and finds incomplete copies.
    """
    whole = folder.resolve()
    for name, stored in manifest.files.items():
        file, reason = folder / name, None
        if not file.is_file():
            reason = "is missing"
        elif not file.resolve().is_relative_to(whole):
            reason = "is a link that leads out of the folder"
        elif (size := file.stat().st_size) != stored.bytes:
            reason = f"has {size:,} bytes, and had {stored.bytes:,} when it was prepared"
        elif contents and sha256_of_file(file) != stored.sha256:
            reason = "has changed since it was prepared"
        if reason:
            yield Problem(str(file), None, reason, f"copy the folder again, or run `mat-ds prepare {folder}` again")


def changed_data(
    manifest: Manifest, folder: Path, spec: TaskSpec, sources: Iterable[TaskSpec], data: DataConfig
) -> Iterator[Problem]:
    """Yields the reasons why a run would read other examples than those in a prepared folder.

    Args:
        spec, sources: the run's task, and the tasks whose training splits it reads.
        data: the run's options.
    """
    yield from damage(manifest, folder)
    again = f"run `mat-ds prepare {folder}` again with this task"
    wanted: dict[str, tuple[TaskSpec, tuple[str, ...]]] = {source.name: (source, ("train",)) for source in sources}
    wanted[spec.name] = (spec, ("train", "dev", "test"))
    for name, (task, parts) in wanted.items():
        before, now = manifest.tasks.get(name), task.model_dump(mode="json")
        if before is None:
            reason = f"{folder} was prepared for {', '.join(manifest.tasks)}"
            yield Problem("task", name, reason, f"{again}, or pass task={manifest.options.get('task')}")
            continue
        for key in DECIDING:
            if before[key] != now[key]:
                yield Problem(f"task {name}: {key}", now[key], f"{folder} was prepared with {before[key]!r}", again)
        for part in parts:
            if new := [split for split in now[part] if split not in before[part]]:
                yield Problem(f"task {name}: {part}", new, f"{folder} was prepared with {before[part]!r}", again)
    bad = sum(tally.bad for tally in manifest.splits.values())
    if bad and data.bad_rows == "refuse":
        reason = f"{folder} was prepared with 'skip', and {bad} bad rows were left out"
        yield Problem("data.bad_rows", "refuse", reason, f"pass data.bad_rows=skip, or mend the files and {again}")


def changed_tokens(manifest: Manifest, folder: str, tokenizer: Any, model: str, max_length: int) -> Iterator[Problem]:
    """Yields the reasons why a run would make other tokens than those in a prepared folder.

    Args:
        tokenizer, model: the run's tokenizer, and the name of its model.
        max_length: the run's maximum number of tokens.
    """
    again = f"run `mat-ds prepare {folder}` again with"
    if max_length != manifest.max_length:
        reason = f"{folder} was prepared with {manifest.max_length}"
        fix = f"{again} data.max_length={max_length}, or pass data.max_length={manifest.max_length}"
        yield Problem("data.max_length", max_length, reason, fix)
    for key, now in describe_tokenizer(tokenizer).items():
        if (before := manifest.tokenizer.get(key)) != now:
            reason = f"{folder} was prepared with {before!r}, the tokenizer of {manifest.options.get('model.name')}"
            fix = f"{again} model.name={model}, or pass the model it was prepared with"
            yield Problem(f"model.name: {key} of the tokenizer", now, reason, fix)
