"""A model with a classification head and its tokenizer, from a folder, from the hub, or built here from scratch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from mat_ds.config.schema import ModelConfig
from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.head_dropout import set_head_dropout
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.tiny import TINY, tiny_config, tiny_tokenizer
from mat_ds.models.unread import Unread, load_unread, weight_files
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.spec import TaskSpec

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


def build_tokenizer(model: ModelConfig, texts: Iterable[str]) -> Any:
    """The tokenizer of `model.name`; for the tiny model, a byte-level one trained on `texts`.

    Raises:
        UserError: if there is none to be had.
    """
    if model.name == TINY:
        return tiny_tokenizer(texts)
    check_folder(model.name)
    check_tokenizer(model.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.name)
    except Exception as error:
        raise UserError(_unavailable(model.name, "tokenizer", error)) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem("model.name", model.name, "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    # A classifier reads its first token or its last real one. Pads in front would be read, or shift the positions.
    tokenizer.padding_side = "right"
    return tokenizer


@dataclass
class Built:
    """A classifier in fp32 on the CPU, the same on every rank.

    Attributes:
        module: the model; with `model.lora` it has adapters, and they and the head alone are trainable.
        fresh: names of the weights drawn anew: the head's, unless the folder has one for as many labels.
        unread: parameters that are stand-ins without memory, and where their values are.
    """

    module: torch.nn.Module
    fresh: list[str]
    unread: Unread


def build_model(model: ModelConfig, task: TaskSpec, tokenizer: Any, seed: int, leave_unread: bool = False) -> Built:
    """The classifier that `model` describes.

    Args:
        model: the options.
        task: how many labels there are, and their names.
        tokenizer: the model's.
        seed: the run's; what is drawn anew depends on it alone.
        leave_unread: whether to leave weights in their files as far as that can be done; else they are all read here.

    Raises:
        UserError: if there is none to be had, or it cannot classify, or has no module that adapters were asked for.
    """
    try:
        built = _load(model.name, _configure(model, task, tokenizer), seed, leave_unread)
    except UserError:
        raise
    except Exception as error:
        raise UserError(_unavailable(model.name, "model", error)) from None
    return _adapt(built, model, seed)


def build_skeleton(model: ModelConfig, task: TaskSpec, tokenizer: Any = None) -> Any:
    """The classifier that `model` describes on the meta device: names, shapes and hooks, from its configuration alone.

    All of it but the head counts as pre-trained, whether or not there are weights.

    Args:
        model: the options.
        task: how many labels there are.
        tokenizer: the model's, if there is one; the built-in model has none of its own and needs it.

    Raises:
        UserError: if its configuration is not to be had, or it has no module that adapters were asked for.
    """
    if model.name != TINY:
        check_folder(model.name)
    with torch.device("meta"):
        try:
            config = _configure(model, task, tokenizer)
            module = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except UserError:
            raise
        except Exception as error:
            raise UserError(_unavailable(model.name, "configuration", error)) from None
        return _adapt(Built(module, [], {}), model, seed=0).module


def _configure(model: ModelConfig, task: TaskSpec, tokenizer: Any) -> Any:
    """The configuration of the classifier; without a tokenizer its padding token is as good as any."""
    labels = dict(enumerate(task.labels)) or {0: "score"}
    head = {
        "num_labels": task.outputs, "id2label": labels, "label2id": {name: i for i, name in labels.items()},
        "problem_type": "regression" if task.regression else "single_label_classification",
    }  # fmt: skip
    config = tiny_config(tokenizer, head) if model.name == TINY else AutoConfig.from_pretrained(model.name, **head)
    if model.dropout is not None:
        for option, value in config.to_dict().items():
            # Those that are null take the value of another.
            if "drop" in option and "layerdrop" not in option and isinstance(value, float | int):
                setattr(config, option, model.dropout)
    if model.head_dropout is not None:
        set_head_dropout(config, model.name, model.head_dropout)
    # Keys and values of past tokens serve generation alone.
    config.use_cache = False
    if model.attention:
        config._attn_implementation = model.attention
    if tokenizer is None:
        config.pad_token_id = config.pad_token_id or 0
        return config
    raise_if_any(_padding_problems(model.name, config, tokenizer))
    # Decoders find the last real token of an example by it.
    config.pad_token_id = tokenizer.pad_token_id
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:
        # RoBERTa has one type only, GPT-2 would add the word embeddings of a 0 and a 1.
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return config


def _adapt(built: Built, model: ModelConfig, seed: int) -> Built:
    """The model with what the options put around it: recomputation, adapters."""
    if model.gradient_checkpointing:
        recompute_activations(built.module)
    if model.lora and model.name != TINY:  # which is refused
        from mat_ds.models.lora import add_lora, copies

        built.module = add_lora(built.module, model.name, model.lora, built.fresh, seed)
        built.unread |= {copy: built.unread[original] for copy, original in copies(built.module) if original in built.unread}
    return built


def _load(name: str, config: Any, seed: int, leave_unread: bool) -> Built:
    """The model without adapters."""
    torch.manual_seed(seed_from(seed, "model"))
    if name == TINY:
        return Built(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32), ["everything"], {})
    files = weight_files(name) if leave_unread else []
    found = load_unread(files, config) if files else None
    if found is None:
        torch.manual_seed(seed_from(seed, "model"))
        found = *AutoModelForSequenceClassification.from_pretrained(
            name, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        ), {}  # fmt: skip
    module, loading, unread = found
    return Built(module, sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]), unread)


def _padding_problems(name: str, config: Any, tokenizer: Any) -> Iterator[Problem]:
    """Why texts of different lengths could not share a batch."""
    if tokenizer.pad_token_id >= config.vocab_size:
        yield Problem("model.name", name, f"its padding token has number {tokenizer.pad_token_id} and no word embedding",
                      "set tokenizer.pad_token to a token the model has, such as its end token, and save it")  # fmt: skip
    if getattr(config, "summary_type", None) == "last":
        yield Problem("model.name", name, "it classifies by the last position, which in a shorter text is a pad",
                      "take a model that reads its first token or its last real one")  # fmt: skip


def longest_input(model: torch.nn.Module, tokenizer: Any = None) -> int:
    """Tokens that both model and tokenizer can take; without a tokenizer, that the model can."""
    limit = int(tokenizer.model_max_length) if tokenizer else sys.maxsize
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa counts positions from its padding index.
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(limit, module.num_embeddings - unused)
    return min(limit, getattr(model.config, "max_position_embeddings", limit))


def check_folder(name: str) -> None:
    """Raises `UserError` if a folder is named that lacks a model's configuration or a tokenizer."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").exists():
            raise UserError(Problem("model.name", name, "the folder holds no config.json",
                                    "pass a folder written by save_pretrained"))  # fmt: skip
    elif path.is_absolute() or name.startswith("."):
        raise UserError(Problem("model.name", name, "there is no such folder", "pass an existing folder, or a hub id"))


def check_tokenizer(name: str) -> None:
    if Path(name).is_dir() and not has_tokenizer(name):
        raise UserError(Problem("model.name", name, "the folder holds no tokenizer",
                                "add one with AutoTokenizer.from_pretrained(...).save_pretrained(<folder>)"))  # fmt: skip


def has_tokenizer(name: str) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((Path(name) / file).exists() for file in TOKENIZER_FILES)


def _unavailable(name: str, what: str, error: Exception) -> Problem:
    reason = f"its {what} cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    if Path(name).is_dir():
        return Problem("model.name", name, reason, "check the files of the folder")
    save = f"AutoConfig.from_pretrained({name!r}).save_pretrained('<folder>/model')"
    if what != "configuration":
        save = "`mat-ds prepare <folder>` with the options of this run"
    return Problem("model.name", name, reason, f"where the hub can be reached, run {save}, bring the folder here and pass "
                   "model.name=<folder>/model")  # fmt: skip
