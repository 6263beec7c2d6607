"""MODEL on a command line: a run directory, a model folder, a hub id, or a version in the registry."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.folders import restore
from mat_ds.models.folder import check_model
from mat_ds.rundir import RunDirectory

REGISTRY = "models:/"
MEANING = "a run directory, a model folder, a hub id, models:/NAME@alias or models:/NAME/VERSION"
FOLDER_FIX = "pass a run folder (config.yaml and model/), or a folder that save_pretrained has written a classifier to"

# Of one of these a tokenizer can be made; `tokenizer_config.json` is all that one of bytes has.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "spm.model",
    "sentencepiece.bpe.model",
)  # fmt: skip

# What transformers reads of a classifier; a hub repository may hold it in five more formats.
FILES, OLDER_WEIGHTS = ["*.json", "*.safetensors", "*.txt", "*.model"], ["*.bin"]


def locate(model: str) -> Path:
    """The folder of the model that `model` names, fetched if it is not on this machine.

    Raises:
        UserError: if there is none to be had.
    """
    if model.startswith(REGISTRY):
        from mat_ds.tracking.registry import download

        return download(model)
    return folder_of(Path(model)) if _means_a_folder(model) else _from_hub(model)


def is_local(model: str) -> bool:
    """Whether the model lies in a folder that its user has named."""
    return not model.startswith(REGISTRY) and _means_a_folder(model)


def folder_of(path: Path) -> Path:
    """The model folder of a run, or the folder itself if it holds a model.

    Raises:
        UserError: if it is neither, or the run has not come as far as a model.
    """
    rundir = RunDirectory(path)
    if rundir.holds_a_run:
        with suppress(OSError):  # the folder of another user
            restore(rundir.model)
    if rundir.holds_a_run and rundir.model.is_dir():
        return rundir.model
    if rundir.holds_a_run:
        raise UserError(Problem("model", str(path), "the run has not exported a model", "let it train to its end"))
    if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        reason = "holds neither a run nor a model" if path.is_dir() else "there is no such folder"
        raise UserError(Problem("model", str(path), reason, FOLDER_FIX))
    return path


def check_folder(name: str) -> None:
    """Raises `UserError` if a folder is named that lacks a model's configuration, or asks for what lies outside of it."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UserError(Problem("model.name", name, "the folder holds no config.json",
                                    "pass a folder written by save_pretrained"))  # fmt: skip
        check_model("model.name", name)
    elif path.is_absolute() or name.startswith("."):
        raise UserError(Problem("model.name", name, "there is no such folder", "pass an existing folder, or a hub id"))


def check_tokenizer(name: str) -> None:
    """Raises `UserError` if a folder is named that holds no tokenizer."""
    if Path(name).is_dir() and not has_tokenizer(name):
        raise UserError(Problem("model.name", name, "the folder holds no tokenizer",
                                "add one with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)"))  # fmt: skip


def has_tokenizer(name: str) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((Path(name) / file).exists() for file in TOKENIZER_FILES)


def _means_a_folder(model: str) -> bool:
    """Whether it is a folder, or could be nothing else."""
    path = Path(model)
    return path.exists() or path.is_absolute() or model.startswith(".") or len(path.parts) > 2


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=OLDER_WEIGHTS)
    except Exception as error:  # a wrong name, offline mode and no network each have a class of their own
        reason = f"there is no such folder, and the hub does not give it ({type(error).__name__}: {_first_line(error)})"
        raise UserError(Problem(
            "model", name, reason, f"{FOLDER_FIX}; or where the hub can be reached, run `hf download {name} --local-dir "
            "<folder>`, and bring the folder here",
        )) from None  # fmt: skip
    return folder_of(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]
