"""A model with a classification head and its tokenizer, from a folder, from the hub, or built here from scratch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.fit import check_once, check_size, draw_anew, fit_problems, label_dimensions
from mat_ds.models.head_dropout import set_head_dropout
from mat_ds.models.labels import Match, match_labels
from mat_ds.models.options import ModelConfig
from mat_ds.models.pretrained import load_config, load_tokenizer, load_weights, new_model, reading
from mat_ds.models.recompute import recompute_activations
from mat_ds.models.source import check_folder, check_tokenizer
from mat_ds.models.tiny import TINY, tiny_config, tiny_tokenizer
from mat_ds.models.unread import Unread, load_unread, value_of, weight_files
from mat_ds.models.vocabulary import suit
from mat_ds.sampling.keys import seed_from
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.spec import TaskSpec

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
    tokenizer = load_tokenizer(model.name)
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
        head: what became of the folder's head where its labels are not the task's, in its order.
    """

    module: torch.nn.Module
    fresh: list[str]
    unread: Unread
    head: str = ""


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
    with reading("model.name", model.name, "model"):
        config, match = _configure(model, task, tokenizer)
        built = _load(model.name, config, seed, leave_unread)
        if not match.same:
            built.head = _settle_head(built, match, seed)
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
        with reading("model.name", model.name, "configuration"):
            module = new_model(_configure(model, task, tokenizer)[0], dtype=torch.float32)
        return _adapt(Built(module, [], {}), model, seed=0).module


def _configure(model: ModelConfig, task: TaskSpec, tokenizer: Any) -> tuple[Any, Match]:
    """The configuration of the classifier, without a tokenizer its padding token is as good as any; and how the labels of the
    head that its folder may have compare with the task's."""
    head = kind_of(task).head()
    match = Match((), None)
    if model.name == TINY:
        config = tiny_config(tokenizer, head)
    else:
        config = load_config(model.name)
        match = match_labels(config, task) if config.num_labels == head["num_labels"] else match
        for option, value in head.items():
            setattr(config, option, value)
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
        return config, match
    raise_if_any(_padding_problems(model.name, config, tokenizer))
    # Decoders find the last real token of an example by it.
    config.pad_token_id = tokenizer.pad_token_id
    suit(tokenizer, config)
    return config, match


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
        return Built(new_model(config, dtype=torch.float32), ["everything"], {})
    if Path(name).is_dir():
        check_size("model.name", name, config)
        check_once("model.name", name)
    files = weight_files(name) if leave_unread else []
    found = load_unread(files, config) if files else None
    if found is None:
        torch.manual_seed(seed_from(seed, "model"))
        found = *load_weights(name, config, torch.float32), {}
    module, loading, unread = found
    raise_if_any(fit_problems("model.name", name, module, loading))
    return Built(module, sorted([*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]), unread)


@torch.no_grad()
def _settle_head(built: Built, match: Match, seed: int) -> str:
    """Puts the outputs of a head that was trained for the task's labels in another order into the task's, and draws those
    that were trained for other labels anew; says which."""
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
    """Why texts of different lengths could not share a batch."""
    if tokenizer.pad_token_id >= config.vocab_size:
        yield Problem(
            "model.name",
            name,
            f"its padding token has number {tokenizer.pad_token_id} and no word embedding",
            "set tokenizer.pad_token to a token the model has, such as its end token, and save it",
        )
    if getattr(config, "summary_type", None) == "last":
        yield Problem(
            "model.name",
            name,
            "it classifies by the last position, which in a shorter text is a pad",
            "take a model that reads its first token or its last real one",
        )


def longest_input(model: torch.nn.Module, tokenizer: Any = None) -> int:
    """Tokens that both model and tokenizer can take; without a tokenizer, that the model can."""
    limit = int(tokenizer.model_max_length) if tokenizer else sys.maxsize
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    limit = min(limit, positions) if positions > 0 else limit  # XLNet's -1 is no limit
    for name, module in model.named_modules():
        table = getattr(module, "weight", None)  # of an Embedding, or of a quantised one
        if name.endswith("position_embeddings") and isinstance(table, torch.Tensor) and table.dim() == 2:
            # RoBERTa counts positions from its padding index.
            padding = getattr(module, "padding_idx", None)
            return min(limit, len(table) - (0 if padding is None else padding + 1))
    return limit
