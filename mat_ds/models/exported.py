"""An exported model, loaded as anyone would load it, without mat_ds's engine."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification


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


def weight_bytes(folder: Path) -> int:
    """Size of the weight files of the model in `folder`, the base of adapters included where it is a folder too."""
    adapters = folder / "adapter_config.json"
    base = json.loads(adapters.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapters.exists() else folder
    return sum(file.stat().st_size for place in {folder, Path(base)} for file in place.glob("*.safetensors"))
