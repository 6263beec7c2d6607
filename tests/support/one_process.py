"""Passes and plain gradient descent in one process, without DeepSpeed."""

from types import SimpleNamespace

import torch

from mat_ds.engine.engine import Engine
from mat_ds.engine.passes import Passes
from mat_ds.models.perturb import EmbeddingPerturbation

LR = 1e-2


class OneProcess(Passes):
    """What methods call, of two updates a step; weights change in place.

    Args:
        model: on the device where it computes, in the precision in which it does.
        capture: of passes to be replayed.
    """

    backward = Engine.backward
    _backwards_per_update, _scales_itself, _flat = 1, False, None

    def __init__(self, model, capture=None):
        self.model, self.capture = model.train(), capture
        weight = next(model.parameters())
        ds = SimpleNamespace(
            module=model, device=weight.device, fp16_enabled=lambda: weight.dtype == torch.float16,
            bfloat16_enabled=lambda: weight.dtype == torch.bfloat16,
        )  # fmt: skip
        ds.backward = lambda loss, scale_wrt_gas: loss.backward()
        super().__init__(ds, EmbeddingPerturbation(model), seed=3, capture=capture)
        self._training_pass = model

    def inner_steps(self):
        return range(2)

    @torch.no_grad()
    def update(self):
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(LR * parameter.grad)
        self.model.zero_grad()
