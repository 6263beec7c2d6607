"""Builds a classifier and its tokenizer, from a folder, the hub, or from scratch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.attention import attention_problems
from mat_ds.models.fit import check_once, check_size, draw_anew, fit_problems, label_dimensions
from mat_ds.models.freeze import freeze
from mat_ds.models.head_dropout import set_head_dropout
from mat_ds.models.labels import Match, match_labels
from mat_ds.models.options import ModelConfig
from mat_ds.models.packing import TOKEN_STEP
from mat_ds.models.pretrained import load_config, load_tokenizer, load_weights, new_model, reading
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.source import check_folder, check_tokenizer, revision_problems
from mat_ds.models.tiny import TINY, tiny_config, tiny_tokenizer
from mat_ds.models.unpadded import remove_padding
from mat_ds.models.unread import Unread, load_unread, value_of, weight_files
from mat_ds.models.vocabulary import suit
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec


def build_tokenizer(model: ModelConfig, texts: Iterable[str]) -> Any:
    """The tokenizer of `model.name`; for the tiny model, a byte-level one trained on `texts`.

    Raises:
        UserError: if it cannot be loaded or cannot pad.
    """
    raise_if_any(revision_problems(model))
    if model.name == TINY:
        return tiny_tokenizer(texts)
    check_folder(model.name)
    check_tokenizer(model.name)
    tokenizer = load_tokenizer(model.name, revision=model.revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem("model.name", model.name, "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    # Classifiers read the first or the last real token; padding on the left would be read instead, or shift the positions.
    tokenizer.padding_side = "right"
    return tokenizer


@dataclass
class Built:
    """A classifier in fp32 on the CPU, identical on every rank.

    Attributes:
        module: the model; with `model.lora`, only adapters and head are trainable, else all but what `model.freeze` names.
        fresh: names of randomly initialised weights: the head's, unless the folder has a head with as many labels.
        unread: parameters without memory whose values are still in files, and where.
        head: what was done with the folder's head if its labels or their order differ from the task's.
        unpadded: whether its encoder computes real tokens only.
    """

    module: torch.nn.Module
    fresh: list[str]
    unread: Unread
    head: str = ""
    unpadded: bool = False


def build_model(model: ModelConfig, task: TaskSpec, tokenizer: Any, seed: int, leave_unread: bool = False) -> Built:
    """Builds the classifier that `model` describes.

    Args:
        model: the options.
        task: decides the number and names of labels.
        tokenizer: the model's.
        seed: of the run; random initialisation depends on it alone.
        leave_unread: whether to leave weights in their files as far as possible, instead of reading them here.

    Raises:
        UserError: if the model cannot be loaded or cannot classify, or lacks what adapters or freezing name.
    """
    with reading("model.name", model.name, "model"):
        config, match = _configure(model, task, tokenizer)
        # These adapters begin from the values of the base.
        leave_unread = leave_unread and not (model.lora and model.lora.variant in ("dora", "pissa"))
        built = _load_module(model.name, model.revision, config, seed, leave_unread)
        if not match.same:
            built.head = _settle_head(built, match, seed)
    # Eager attention is asked for where second derivatives are; they are taken of the model as transformers has it.
    token_step = TOKEN_STEP if model.compile == "graphs" else 0
    built.unpadded = model.attention != "eager" and remove_padding(built.module, token_step)
    return _adapt(built, model, seed)


def build_skeleton(model: ModelConfig, task: TaskSpec, tokenizer: Any = None) -> Any:
    """Builds the classifier on the meta device, from its configuration alone: names, shapes and hooks without weights.

    Everything but the head counts as pre-trained.

    Args:
        model: the options.
        task: decides the number of labels.
        tokenizer: the model's; only required for the built-in model.

    Raises:
        UserError: if the configuration cannot be loaded, or it lacks modules that adapters were requested for.
    """
    raise_if_any(revision_problems(model))
    if model.name != TINY:
        check_folder(model.name)
    with torch.device("meta"):
        with reading("model.name", model.name, "configuration"):
            module = new_model(_configure(model, task, tokenizer)[0], dtype=torch.float32)
        return _adapt(Built(module, [], {}), model, seed=0).module


def _configure(model: ModelConfig, task: TaskSpec, tokenizer: Any) -> tuple[Any, Match]:
    """The classifier's configuration (without a tokenizer, its padding token is arbitrary), and how the labels of an existing
    head compare with the task's."""
    head = kind_of(task).head()
    match = Match((), None)
    if model.name == TINY:
        config = tiny_config(tokenizer, head)
    else:
        config = load_config(model.name, revision=model.revision)
        match = match_labels(config, task) if config.num_labels == head.get("num_labels") else match
        for option, value in head.items():
            setattr(config, option, value)
    if model.dropout is not None:
        for option, value in config.to_dict().items():
            # A dropout option that is null falls back to another one.
            if "drop" in option and "layerdrop" not in option and isinstance(value, float | int):
                setattr(config, option, model.dropout)
    if model.head_dropout is not None:
        set_head_dropout(config, model.name, model.head_dropout)
    # The key-value cache is only used for generation.
    config.use_cache = False
    raise_if_any(attention_problems(model.name, config, model.attention))
    if model.attention:
        config._attn_implementation = model.attention
    if tokenizer is None:
        config.pad_token_id = config.pad_token_id or 0
        return config, match
    raise_if_any(_padding_problems(model.name, config, tokenizer))
    # Decoders use it to find the last real token.
    config.pad_token_id = tokenizer.pad_token_id
    suit(tokenizer, config)
    return config, match


def _adapt(built: Built, model: ModelConfig, seed: int) -> Built:
    """Applies activation checkpointing, freezing and adapters as the options say."""
    if model.gradient_checkpointing:
        recompute_activations(built.module)
    if model.lora and model.name != TINY:  # LoRA on the tiny model is refused elsewhere
        from mat_ds.models.lora import add_lora, copies

        built.module = add_lora(built.module, model.name, model.lora, built.fresh, seed, model.revision)
        built.unread |= {copy: built.unread[original] for copy, original in copies(built.module) if original in built.unread}
    elif not model.lora:
        freeze(built.module, model, built.fresh)
    return built


def _load_module(name: str, revision: str | None, config: Any, seed: int, leave_unread: bool) -> Built:
    """Loads or builds the model without adapters."""
    torch.manual_seed(seed_from(seed, "model"))
    if name == TINY:
        return Built(new_model(config, dtype=torch.float32), ["everything"], {})
    if Path(name).is_dir():
        check_size("model.name", name, config)
        check_once("model.name", name)
    files = weight_files(name, revision) if leave_unread else []
    found = load_unread(files, config) if files else None
    if found is None:
        torch.manual_seed(seed_from(seed, "model"))
        found = *load_weights(name, config, torch.float32, revision), {}
    module, loading, unread = found
    raise_if_any(fit_problems("model.name", name, module, loading))
    return Built(module, sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]), unread)


@torch.no_grad()
def _settle_head(built: Built, match: Match, seed: int) -> str:
    """Permutes the outputs of a head trained for the same labels in another order, or re-initialises a head trained for other
    labels. Returns a sentence about it, or ""."""
    dimensions = {name: i for name, i in label_dimensions(built.module).items() if name not in built.fresh}
    if not dimensions:
        return ""
    torch.manual_seed(seed_from(seed, "head"))
    if match.order is None:
        draw_anew(built.module, dimensions)
        built.fresh = sorted([*built.fresh, *dimensions])
    for name, dimension in dimensions.items():
        parameter = built.module.get_parameter(name)
        if match.order is not None:
            parameter.data = value_of(parameter, built.unread).index_select(dimension, torch.tensor(match.order))
        built.unread.pop(parameter, None)
    done = "put into the order of the task's" if match.order else "not the task's, so its last layer is drawn anew"
    return f"the labels of its head ({', '.join(match.names)}) are {done}"


def _padding_problems(name: str, config: Any, tokenizer: Any) -> Iterator[Problem]:
    """Yields the reasons why texts of different lengths cannot share a batch."""
    if tokenizer.pad_token_id >= config.vocab_size:
        reason = f"its padding token has the number {tokenizer.pad_token_id}, but no word embedding"
        fix = "set tokenizer.pad_token to a token the model has, such as its end token, and save it"
        yield Problem("model.name", name, reason, fix)
    if getattr(config, "summary_type", None) == "last":
        reason = "it classifies by the last position, which is padding in shorter texts"
        yield Problem("model.name", name, reason, "use a model that reads the first or the last real token")


def longest_input(model: torch.nn.Module, tokenizer: Any = None) -> int:
    """Maximum number of tokens of the model, and of the tokenizer if given."""
    limit = int(tokenizer.model_max_length) if tokenizer else sys.maxsize
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    limit = min(limit, positions) if positions > 0 else limit  # XLNet's -1 means no limit
    for name, module in model.named_modules():
        table = getattr(module, "weight", None)  # of an Embedding, or its quantised version
        if name.endswith("position_embeddings") and isinstance(table, torch.Tensor) and table.dim() == 2:
            # RoBERTa's positions start after its padding index.
            padding = getattr(module, "padding_idx", None)
            return min(limit, len(table) - (0 if padding is None else padding + 1))
    return limit
