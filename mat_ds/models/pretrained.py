"""Every call that loads a configuration, a tokenizer or weights through transformers, so that one place decides what may run.

Code that comes with a model never does: without `trust_remote_code=False`, transformers asks on standard input whether to run
it, and whatever is piped in answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from mat_ds.errors import Problem, UserError
from mat_ds.models.folder import CONFIG, check_model, file_of, read_object
from mat_ds.tasks.kinds import kind_of_model

Loading = dict[str, Any]
NEVER = {"trust_remote_code": False}
# Words that transformers and tokenizers use where a vocabulary cannot be read without a package, and the package.
READERS = {"sentencepiece": "sentencepiece", "protobuf": "protobuf", "tiktoken": "sentencepiece protobuf"}


def load_config(name: str, key: str = "model.name", adapters: bool = False, **overrides: Any) -> Any:
    """The configuration of a model, a folder or a hub id.

    Args:
        name: of the model.
        key: what named it.
        adapters: whether it may be that of adapters.
        overrides: options of the configuration that are to be others.

    Raises:
        UserError: if the model needs code of its own, or asks for something outside of it.
    """
    check_model(key, name, adapters)
    with reading(key, name, "configuration"):
        config = AutoConfig.from_pretrained(name, **NEVER, **overrides)
        if "id2label" not in overrides and (names := _turned_labels(key, name)):
            config.id2label = names
    # What is exported is what was loaded.
    config.__dict__.pop("auto_map", None)
    return config


def load_tokenizer(name: str, key: str = "model.name", adapters: bool = False) -> Any:
    """The tokenizer of a model, a folder or a hub id.

    Raises:
        UserError: as `load_config`, or if the folder lacks its vocabulary.
    """
    check_model(key, name, adapters)
    with reading(key, name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(name, **NEVER)
    tokenizer.init_kwargs.pop("auto_map", None)
    longest = tokenizer.model_max_length
    if not (isinstance(longest, int | float) and longest > 0):
        raise UserError(Problem(key, name, f"its tokenizer takes {longest!r} tokens (model_max_length)",
                                "set tokenizer.model_max_length to a number and save it again"))  # fmt: skip
    if Path(name).is_dir() and (missing := _missing_vocabulary(Path(name), tokenizer)):
        raise UserError(
            Problem(
                key,
                name,
                f"its {type(tokenizer).__name__} reads {missing}, and they are not in the folder",
                "bring the whole folder, or add a tokenizer with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)",
            )
        )
    return tokenizer


def _auto_class(config: Any) -> Any:
    """Transformers' class that builds models with the head that a configuration describes."""
    return getattr(transformers, kind_of_model(config).auto_class)


def new_model(config: Any, **options: Any) -> Any:
    """A model of a configuration, head and all, all of its weights drawn."""
    return _auto_class(config).from_config(config, **NEVER, **options)


def load_weights(name: str, config: Any, dtype: torch.dtype) -> tuple[nn.Module, Loading]:
    """The model of a folder or a hub id, head and all, drawn anew where its files have nothing that fits, and what
    transformers says of that."""
    module, loading = _auto_class(config).from_pretrained(
        name, config=config, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **NEVER
    )
    return module, loading


def load_tensors(config: Any, state: dict[str, Tensor]) -> tuple[Any, Loading]:
    """The same from tensors by the names that files give them."""
    with torch.device("meta"):
        kind: Any = type(new_model(config))
    model, loading = kind.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
    )
    return model, loading


def _turned_labels(key: str, name: str) -> dict[int, str]:
    """The labels of a configuration that gives the number of each and not the label of each number, which is all that
    transformers reads."""
    path = file_of(name, CONFIG)
    written = read_object(key, path) if path else {}
    numbers = written.get("label2id")
    if written.get("id2label") or not isinstance(numbers, dict):
        return {}
    names = {number: label for label, number in numbers.items()}
    return names if sorted(names) == list(range(len(numbers))) else {}


@contextmanager
def reading(key: str, name: str, what: str) -> Iterator[None]:
    """Within it, whatever a library finds wrong with part of a model is a `UserError` that names key, model and part."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what panics in Rust is no Exception
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
    return f"where the hub can be reached, run {save}, bring the folder here and pass model.name=<folder>/model"


def _missing_vocabulary(folder: Path, tokenizer: Any) -> str:
    """Files of words that the class of a tokenizer reads and that are not there: it would have made do without any words."""
    files = type(tokenizer).vocab_files_names
    if (folder / "tokenizer.json").exists() or type(tokenizer).__name__ == "TokenizersBackend":
        return ""
    missing = [file for part, file in files.items() if part in ("vocab_file", "merges_file") and not (folder / file).exists()]
    return f"{' and '.join(missing)}, or tokenizer.json" if missing else ""
