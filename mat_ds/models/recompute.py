"""Gradient checkpointing: activations recomputed in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(model: Any) -> None:
    """Keeps only the inputs of a transformer's layers for the backward pass.

    Re-entrant checkpointing cannot take the gradient with respect to the perturbation alone, so this is the other kind.

    Args:
        model: a transformers model; one without checkpointing of its own (ALBERT) has it put around its layers.
    """
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        # Around `forward`, so that ZeRO-3's hooks stay outside and gather once per pass.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
