"""An exported model, loaded as anyone would load it, without mat_ds's engine."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification


def load_exported(folder: Path, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The classification model in `folder`, in evaluation mode.

    Args:
        folder: what `train.export` writes (`runs/<run>/model`), or any `save_pretrained` folder of a classifier.
        dtype: to compute in.
        device: where to put it.
    """
    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).to(device)
    return model.eval()
