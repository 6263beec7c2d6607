"""Gradient checkpointing: activations recomputed in the backward pass."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(model: Any) -> None:
    """Enables non-re-entrant activation checkpointing of a transformer's layers.

    Re-entrant checkpointing cannot compute gradients with respect to the perturbation alone.

    Args:
        model: a transformers model; if it has no checkpointing (ALBERT), each layer's forward is wrapped.
    """
    if model.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        return
    layers = next(module for module in model.modules() if isinstance(module, nn.ModuleList))
    for layer in layers:
        # Wrap `forward`, so that ZeRO-3's hooks stay outside and gather parameters once per pass.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
