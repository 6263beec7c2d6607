"""The engine's vocabulary on one process in plain torch, counting passes: what methods are tested with."""

import torch

from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling.keys import generator


class PlainEngine:
    """Counts forward units as methods.cost does: a forward 1, a backward to the parameters 2, one to delta alone 1."""

    def __init__(self, model, skips=()):
        self.model = model
        self.perturbation = EmbeddingPerturbation(model)
        self.forwards = self.backwards = self.input_gradients = 0
        self.masks = []
        self.updates = 0
        self.skips = set(skips)

    @property
    def units(self):
        return self.forwards + 2 * self.backwards + self.input_gradients

    def _logits(self, batch, delta, masks):
        self.masks.append(masks)
        with self.perturbation.applied(delta):
            return self.model(**batch.inputs).logits

    def forward(self, batch, masks):
        self.forwards += 1
        return self._logits(batch, None, masks)

    def forward_pair(self, batch, delta, masks, share_masks=False):
        self.forwards += 2
        self.shared = share_masks
        return self._logits(batch, None, masks), self._logits(batch, delta, masks)

    def probe(self, batch, masks, delta=None):
        self.forwards += 1
        return self._logits(batch, delta, masks)

    def input_grad(self, loss, delta):
        self.input_gradients += 1
        return torch.autograd.grad(loss, delta)[0]

    def normal(self, batch, *name):
        return torch.randn(self._shape(batch), generator=generator(torch.device("cpu"), *name, batch.index))

    def uniform(self, batch, *name):
        return torch.rand(self._shape(batch), generator=generator(torch.device("cpu"), *name, batch.index)) * 2 - 1

    def _shape(self, batch):
        return (*batch.inputs["input_ids"].shape, self.perturbation.width)

    def backward(self, loss):
        # A concatenated pass has one graph, so its backward counts as one of twice the size.
        self.backwards += 2 if self.masks[-2:-1] == self.masks[-1:] else 1
        loss.backward()

    def update(self):
        self.updates += 1
        self.applied = self.updates not in self.skips

    def inner_steps(self, count):
        k = 0
        while k < count:
            yield k
            k += self.applied
