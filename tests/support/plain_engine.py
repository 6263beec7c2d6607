"""The engine's vocabulary on one process in plain torch, counting passes: what methods are tested with."""

from contextlib import contextmanager

import torch

from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling import philox
from mat_ds.sampling.keys import noise_key


class PlainEngine:
    """Counts forward units as methods.cost does: a forward 1, a backward to the parameters 2, one to delta alone 1."""

    seed = outer_step = 0

    def __init__(self, model, samples=1, skips=()):
        self.model, self.samples = model, samples
        self.perturbation = EmbeddingPerturbation(model)
        self.forwards = self.backwards = self.input_gradients = self.graphs = 0
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

    def forward(self, batch, masks, delta=None):
        self.forwards += 1
        self.graphs += 1
        return self._logits(batch, delta, masks)

    def forward_pair(self, batch, delta, masks, share_masks=False, train_words=True):
        self.forwards += 2
        self.graphs += 2
        self.shared = share_masks
        clean = self._logits(batch, None, masks)
        with self.perturbation.applied(delta, None if train_words else 0):
            return clean, self.model(**batch.inputs).logits

    @torch.no_grad()
    def probe(self, batch, masks, delta=None):
        self.forwards += 1
        return self._logits(batch, delta, masks)

    def delta_gradient(self, batch, masks, delta, payoff, differentiable=False):
        self.forwards, self.input_gradients = self.forwards + 1, self.input_gradients + 1
        delta = delta.detach().requires_grad_()
        total = payoff(self._logits(batch, delta, masks)).sum()
        return torch.autograd.grad(total, delta, create_graph=differentiable)[0]

    def normal(self, batch, *name):
        return self.drawn(philox.normal, batch, name)

    def uniform(self, batch, *name):
        return self.drawn(philox.uniform, batch, name)

    def drawn(self, law, batch, name):
        return law(noise_key(self.seed, self.outer_step, *name), batch.examples, batch.tokens, self.perturbation.width)

    def backward(self, loss, delta=None):
        self.backwards, self.graphs = self.backwards + self.graphs, 0
        loss.backward()
        if delta is not None:
            gradient, delta.grad = delta.grad, None
            return gradient

    @contextmanager
    def averaged_weights(self, name):
        assert not self.graphs
        yield

    def update(self):
        self.updates += 1
        self.applied = self.updates not in self.skips

    def inner_steps(self):
        k = 0
        while k < self.samples:
            yield k
            k += self.applied
