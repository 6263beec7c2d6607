"""An exported model, loaded as anyone would load it, without mat_ds's engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mat_ds.errors import Problem, UserError
from mat_ds.models.locate import FOLDER_FIX


def load_exported(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The classification model in `folder`, in evaluation mode.

    Args:
        folder: what `train.export` writes (`runs/<run>/model`), or any `save_pretrained` folder of a classifier; of
            adapters it may hold no more than the name of their base.
        dtype: to compute in.
        device: where to put it.
    """
    if (folder / "adapter_config.json").exists():
        from mat_ds.models.lora import load_adapter

        return load_adapter(folder, dtype).to(device).eval()
    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).to(device)
    return model.eval()


def load_classifier(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """The model in `folder`, ready to predict batches of any texts, and its tokenizer.

    Raises:
        UserError: if there is none, or it was saved without a head, or cannot pad.
    """
    try:
        model: Any = load_exported(folder, dtype, device)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except UserError:
        raise
    except Exception as error:
        reason = f"its model cannot be loaded ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        raise UserError(Problem("model", str(folder), reason, FOLDER_FIX)) from None
    if not has_head(folder):
        raise UserError(Problem("model", str(folder), "its model was saved without a classification head", FOLDER_FIX))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise UserError(Problem("model", str(folder), "its tokenizer has neither a padding nor an end token",
                                "set tokenizer.pad_token and save it again"))  # fmt: skip
    tokenizer.padding_side = "right"  # as in training, whatever the hub's tokenizer says
    if model.config.pad_token_id is None:  # by which decoders find the last real token
        model.config.pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False)
    return model, tokenizer


def has_head(folder: Path) -> bool:
    """Whether the model in `folder` says that it was saved as a classifier, or says nothing; adapters bring their head."""
    saved = folder / "config.json"
    written = json.loads(saved.read_text(encoding="utf-8")).get("architectures") if saved.exists() else None
    return (
        not written or (folder / "adapter_config.json").exists() or any("ForSequenceClassification" in name for name in written)
    )


def weight_bytes(folder: Path) -> int:
    """Size of the weight files of the model in `folder`, the base of adapters included where it is a folder too."""
    adapters = folder / "adapter_config.json"
    base = json.loads(adapters.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapters.exists() else folder
    return sum(file.stat().st_size for place in {folder, Path(base)} for file in place.glob("*.safetensors"))
