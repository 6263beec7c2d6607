"""All calls that load a configuration, tokenizer or weights through transformers.

Code that comes with a model is never run: without `trust_remote_code=False`, transformers would ask on standard input, where
piped data could answer yes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
import transformers.modeling_utils  # what every model needs: two seconds, which are spent here and not at the first model
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from mat_ds.errors import Problem, UserError
from mat_ds.models.folder import CONFIG, check_model, file_of, read_object
from mat_ds.tasks.kinds import kind_of_model

# What matters of its reports is said here in other words.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

Loading = dict[str, Any]
NEVER = {"trust_remote_code": False}
# Packages that transformers' messages ask for, and what to install.
READERS = {"sentencepiece": "sentencepiece", "protobuf": "protobuf", "tiktoken": "sentencepiece protobuf"}


def load_config(
    name: str, key: str = "model.name", adapters: bool = False, revision: str | None = None, **overrides: Any
) -> Any:
    """Loads a model's configuration from a folder or the hub.

    Args:
        name: of the model.
        key: the option that named it.
        adapters: whether it may be adapters.
        revision: of a hub id; None: its main branch.
        overrides: configuration entries to replace.

    Raises:
        UserError: if it cannot be loaded, or the model needs code or files from elsewhere.
    """
    check_model(key, name, adapters, revision)
    with reading(key, name, "configuration"):
        config = AutoConfig.from_pretrained(name, revision=revision, **NEVER, **overrides)
        if "id2label" not in overrides and (names := _turned_labels(key, name, revision)):
            config.id2label = names
    # so that an exported model does not name the remote code either
    config.__dict__.pop("auto_map", None)
    return config


def load_tokenizer(name: str, key: str = "model.name", adapters: bool = False, revision: str | None = None) -> Any:
    """Loads a model's tokenizer from a folder or the hub.

    Raises:
        UserError: as `load_config`, or if its vocabulary is missing.
    """
    check_model(key, name, adapters, revision)
    with reading(key, name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, **NEVER)
    tokenizer.init_kwargs.pop("auto_map", None)
    longest = tokenizer.model_max_length
    if not (isinstance(longest, int | float) and longest > 0):
        raise UserError(Problem(key, name, f"the model_max_length of its tokenizer is {longest!r}",
                                "set tokenizer.model_max_length to a number and save it again"))  # fmt: skip
    if Path(name).is_dir() and (missing := _missing_vocabulary(Path(name), tokenizer)):
        raise UserError(
            Problem(
                key,
                name,
                f"its {type(tokenizer).__name__} needs {missing}, which the folder lacks",
                "bring the whole folder, or add a tokenizer with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)",
            )
        )
    return tokenizer


def _auto_class(config: Any) -> Any:
    """The transformers class for models with a configuration's head."""
    return getattr(transformers, kind_of_model(config).auto_class)


def architecture_of(config: Any) -> Any:
    """The class of the model with head that a configuration describes; None if transformers has none."""
    found = _auto_class(config)._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple | list) else found


def new_model(config: Any, **options: Any) -> Any:
    """A randomly initialised model with head."""
    return _auto_class(config).from_config(config, **NEVER, **options)


def load_weights(name: str, config: Any, dtype: torch.dtype, revision: str | None = None) -> tuple[nn.Module, Loading]:
    """Loads a model with head from a folder or the hub. Weights that do not fit are initialised at random; the second value is
    transformers' loading report."""
    module, loading = _auto_class(config).from_pretrained(
        name, revision=revision, config=config, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **NEVER
    )
    return module, loading


def load_masked(name: str, revision: str | None = None, key: str = "model") -> Any:
    """Loads a published model with its head for masked words, in evaluation mode and fp32.

    Args:
        name, revision: a folder, or a hub id, of which the cache is read; nothing is downloaded.
        key: the option that named it.

    Returns:
        None if it is not at hand or has no such head.

    Raises:
        UserError: if a file of it is not fit to be read.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = name if Path(name).is_dir() else snapshot_download(name, revision=revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError):
        return None
    check_model(key, folder)
    with reading(key, name, "model"):
        config = AutoConfig.from_pretrained(folder, **NEVER)
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            return None
        kind: Any = MODEL_FOR_MASKED_LM_MAPPING[type(config)]
        model, loading = kind.from_pretrained(folder, config=config, dtype=torch.float32, output_loading_info=True)
    return None if loading["missing_keys"] or loading["mismatched_keys"] else model.eval().requires_grad_(False)


def load_tensors(config: Any, state: dict[str, Tensor]) -> tuple[Any, Loading]:
    """`load_weights` from tensors in memory, by their names in files."""
    with torch.device("meta"):
        kind: Any = type(new_model(config))
    model, loading = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    return model, loading


def _turned_labels(key: str, name: str, revision: str | None) -> dict[int, str]:
    """Labels from `label2id`, for a config.json without `id2label`, which is all that transformers reads."""
    path = file_of(name, CONFIG, revision)
    written = read_object(key, path) if path else {}
    numbers = written.get("label2id")
    if written.get("id2label") or not isinstance(numbers, dict):
        return {}
    names = {number: label for label, number in numbers.items()}
    return names if sorted(names) == list(range(len(numbers))) else {}


@contextmanager
def reading(key: str, name: str, what: str) -> Iterator[None]:
    """A context that turns any error of a library into `UserError`, naming key, model and part."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics in Rust are not Exceptions
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        reason = f"its {what} cannot be loaded ({type(error).__name__}: {first[:300]})"
        raise UserError(Problem(key, name, reason, _fix(name, what, str(error)))) from None


def _fix(name: str, what: str, text: str) -> str:
    if packages := next((package for word, package in READERS.items() if f"pip install {word}" in text), None):
        return f"pip install {packages}"
    if Path(name).is_dir():
        return "check the files of the folder"
    save = f"AutoConfig.from_pretrained({name!r}).save_pretrained('<folder>/model')"
    if what != "configuration":
        save = "`mat-ds prepare <folder>` with the options of this run"
    return f"on a machine that can reach the hub, run {save}, copy the folder here and pass model.name=<folder>/model"


def _missing_vocabulary(folder: Path, tokenizer: Any) -> str:
    """Vocabulary files that a tokenizer class needs but the folder lacks; without this check the tokenizer would load with an
    empty vocabulary."""
    files = type(tokenizer).vocab_files_names
    if (folder / "tokenizer.json").exists() or type(tokenizer).__name__ == "TokenizersBackend":
        return ""
    missing = [file for part, file in files.items() if part in ("vocab_file", "merges_file") and not (folder / file).exists()]
    return f"{' and '.join(missing)}, or tokenizer.json" if missing else ""
