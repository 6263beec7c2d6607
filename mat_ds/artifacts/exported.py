"""Loads an exported model with plain transformers, without mat_ds's engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.models.fit import check_once, check_size, fit_problems
from mat_ds.models.folder import ADAPTER_CONFIG, read_object
from mat_ds.models.pretrained import load_config, load_tokenizer, load_weights, reading
from mat_ds.models.vocabulary import suit
from mat_ds.storage.disk import write_json

KEY = "model"


def load_exported(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """Loads the classifier in `folder`, in evaluation mode.

    Args:
        folder: written by `train.export` (`runs/<run>/model`), or any `save_pretrained` folder of a classifier, or adapters
            that name their base.
        dtype: to compute in.
        device: to load it to.

    Raises:
        UserError: if weights are missing, or it needs code of its own.
    """
    if (folder / ADAPTER_CONFIG).exists():
        from mat_ds.models.lora import load_adapter

        return load_adapter(folder, dtype).to(device).eval()
    name = str(folder)
    config = load_config(name, KEY)
    check_size(KEY, name, config)
    check_once(KEY, name)
    module, loading = load_weights(name, config, dtype)
    raise_if_any(fit_problems(KEY, name, module, loading, whole=True))
    return module.to(device).eval()


def load_classifier(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """Loads model and tokenizer, ready to predict batches of texts.

    Raises:
        UserError: if it cannot be loaded, has no head, or cannot pad.
    """
    with reading(KEY, str(folder), "model"):
        model: Any = load_exported(folder, dtype, device)
    tokenizer = load_tokenizer(str(folder), KEY, adapters=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem(KEY, str(folder), "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    tokenizer.padding_side = "right"  # as in training
    if model.config.pad_token_id is None:  # used by decoders to find the last real token
        model.config.pad_token_id = tokenizer.pad_token_id
    suit(tokenizer, model.config)
    model.requires_grad_(False)
    return model, tokenizer


def move_base(folder: Path, base: str) -> None:
    """Changes the base that adapters name, in `folder` or its `adapter/`; does nothing if there are none."""
    for place in (folder, folder / "adapter"):
        if (place / ADAPTER_CONFIG).exists():
            written = read_object(KEY, place / ADAPTER_CONFIG)
            named = str(Path(base).resolve()) if Path(base).is_dir() else base
            if written.get("base_model_name_or_path") != named:
                # Replace the file instead of editing it in place: a checkpoint may have a hard link to it.
                write_json(place / ADAPTER_CONFIG, {**written, "base_model_name_or_path": named})


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files of a model, including the base of adapters if that is a folder."""
    adapters = folder / "adapter_config.json"
    base = json.loads(adapters.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapters.exists() else folder
    return sum(file.stat().st_size for place in {folder, Path(base)} for file in place.glob("*.safetensors"))
