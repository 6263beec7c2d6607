"""The models that are measured."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

# The shape of all-MiniLM-L6-v2, 22.7 M parameters: the default without a folder.
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def make_model(folder: Path | None, num_labels: int = 2) -> torch.nn.Module:
    """The classifier in a folder, or one of MiniLM's shape with random weights, since speed does not depend on them."""
    if folder is None:
        return AutoModelForSequenceClassification.from_config(BertConfig(**SMALL, num_labels=num_labels))
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=num_labels, dtype=torch.float32)


def parameter_shapes(folder: Path | None) -> list[torch.Size]:
    """Shapes of the parameters, in their order."""
    config = BertConfig(**SMALL) if folder is None else AutoConfig.from_pretrained(folder, num_labels=2)
    with torch.device("meta"):
        return [p.shape for p in AutoModelForSequenceClassification.from_config(config).parameters()]
