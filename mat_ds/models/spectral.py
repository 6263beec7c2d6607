"""Spectral normalisation of a classification head (Miyato et al. 2018), for R4F."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpectralHead:
    """Divides the last matrix W of the classification head by its largest singular value, in every pass.

    It hooks the linear module, so weights keep the model's own names and shapes at every ZeRO stage. The singular value is
        exact,
    in fp32; this is cheap because W has one row per class.

    Args:
        model: a transformers classifier.

    Attributes:
        weight: name of W among the model's parameters.
    """

    def __init__(self, model: nn.Module):
        classes = model.config.num_labels  # type: ignore[union-attr]
        heads = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module.out_features == classes and module.weight.requires_grad
        ]
        name, module = heads[-1]
        self.weight = f"{name}.weight"
        module.register_forward_hook(_divide)

    def fold(self, weights: dict[str, Tensor]) -> None:
        """Replaces W by W / sigma_max(W), so that the exported model needs no hook."""
        if self.weight in weights:
            weights[self.weight] = weights[self.weight] / _spectral_norm(weights[self.weight])


def _divide(module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    bias = 0.0 if module.bias is None else module.bias.float()
    return ((output.float() - bias) / _spectral_norm(module.weight) + bias).to(output.dtype)


def _spectral_norm(weight: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(weight.float(), ord=2)
