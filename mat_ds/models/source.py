"""Checks that a model's name refers to a model with a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.models.folder import CONFIG, check_model
from mat_ds.models.options import ModelConfig
from mat_ds.models.tiny import TINY
from mat_ds.tasks.spec import TaskSpec

FOLDER_FIX = "pass a run folder (config.yaml and model/), or a folder that save_pretrained has written a classifier to"

# Files from which a tokenizer can be loaded; byte-level ones may only have `tokenizer_config.json`.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "spm.model",
    "sentencepiece.bpe.model",
)  # fmt: skip


def check_place(name: str, tokenizer: bool = True) -> None:
    """Raises `UserError` if a named folder does not exist, or lacks config.json or (unless `tokenizer` is false) a tokenizer.
    Reads none of its files."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UserError(
                Problem("model.name", name, "the folder has no config.json", "pass a folder written by save_pretrained")
            )
        if tokenizer:
            check_tokenizer(name)
    elif path.is_absolute() or name.startswith("."):
        raise UserError(Problem("model.name", name, "there is no such folder", "pass an existing folder, or a hub id"))


def check_folder(name: str) -> None:
    """`check_place`, and that the folder refers to nothing outside."""
    check_place(name, tokenizer=False)
    if Path(name).is_dir():
        check_model("model.name", name)


def commit_of(name: str, revision: str | None) -> str | None:
    """The commit of a model that was loaded from the hub; None for a folder, or where the hub's cache does not say."""
    folder = None if Path(name).is_dir() or name == TINY else cached_folder(name, revision)
    return folder.name if folder else None


def cached_folder(name: str, revision: str | None) -> Path | None:
    """The folder of a model of the hub in the hub's cache, called like its commit; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, CONFIG, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def revision_problems(model: ModelConfig) -> Iterator[Problem]:
    """Yields a problem if a revision is asked of a model that has none."""
    if model.revision and (model.name == TINY or Path(model.name).is_dir()):
        reason = f"is of a model on the hub, but {model.name} is {'built here' if model.name == TINY else 'a folder'}"
        yield Problem("model.revision", model.revision, reason, "leave it out, or pass model.name=<hub id>")


def check_tokenizer(name: str) -> None:
    """Raises `UserError` if a folder has no tokenizer."""
    if Path(name).is_dir() and not has_tokenizer(name):
        raise UserError(Problem("model.name", name, "the folder has no tokenizer",
                                "add one with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)"))  # fmt: skip


def has_tokenizer(name: str) -> bool:
    """Whether a folder contains a tokenizer."""
    return any((Path(name) / file).exists() for file in TOKENIZER_FILES)


def hub_names(model: str, tasks: Iterable[TaskSpec] = (), data_path: str | None = None) -> list[str]:
    """The model and the datasets that come from the hub, by name.

    Args:
        model: `model.name`.
        tasks: whose data are read.
        data_path: `data.path`.
    """
    datasets = [task.hub for task in tasks if data_path is None and task.hub]
    return list(dict.fromkeys([*([] if model == TINY or Path(model).is_dir() else [model]), *datasets]))
