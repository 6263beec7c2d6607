"""Implements `mat_ds.methods.base.Engine` in plain torch on one process, for tests of methods."""

from contextlib import contextmanager

import torch

from mat_ds.models.first_layer import FirstLayer
from mat_ds.models.perturb import EmbeddingPerturbation
from mat_ds.sampling import philox
from mat_ds.sampling.keys import dropout_seed, noise_key
from mat_ds.tasks.kinds.outputs import read_output


class PlainEngine:
    """Makes the passes that a method asks for, with the same dropout masks as the real engine. An update changes no parameter.

    Args:
        model: a classifier of transformers.
        samples: number of updates in an outer step.
        skips: the updates that are skipped as if fp16 had overflowed, counted from 1.
        read: the logits in the model's output, as a kind of task reads them.

    Attributes:
        updates: number of updates so far, with those that were skipped.
        tracked: whether a training pass waits for its backward pass.
    """

    seed = outer_step = 0

    def __init__(self, model, samples=1, skips=(), read=read_output):
        self.model, self.samples, self.read = model, samples, read
        self.perturbation = EmbeddingPerturbation(model)
        self.updates, self.skips = 0, set(skips)
        self.tracked = False

    def seed_dropout(self, batch, masks):
        self.model.train(masks is not None)
        if masks is not None:
            # `torch.manual_seed` also formats the stack for each kind of device there might be, which takes milliseconds.
            torch.default_generator.manual_seed(dropout_seed(self.seed, self.outer_step, batch.index, masks))

    def _logits(self, batch, delta, masks, frozen_from=None):
        self.seed_dropout(batch, masks)
        with self.perturbation.applied(delta, frozen_from):
            return self.read(self.model(**batch.inputs), batch.inputs)

    def forward(self, batch, masks, delta=None):
        self.tracked = True
        return self._logits(batch, delta, masks)

    def forward_pair(self, batch, delta, masks, share_masks=False, train_words=True):
        self.tracked = True
        frozen_from = None if train_words else 0
        second = masks if share_masks or masks is None else (*masks, "second")
        return self._logits(batch, None, masks), self._logits(batch, delta, second, frozen_from)

    @torch.no_grad()
    def probe(self, batch, masks, delta=None):
        return self._logits(batch, delta, masks)

    def delta_gradient(self, batch, masks, delta, payoff, differentiable=False):
        delta = delta.detach().requires_grad_()
        total = payoff(self._logits(batch, delta, masks)).sum()
        return torch.autograd.grad(total, delta, create_graph=differentiable)[0]

    def forward_split(self, batch, masks, delta=None):
        with FirstLayer(self.model).kept() as seen:
            logits = self.forward(batch, masks, delta)
        return logits, seen[0]

    def first_layer_slope(self, batch, masks, delta, payoff):
        with FirstLayer(self.model).kept() as seen:
            logits = self._logits(batch, delta, masks)
        return torch.autograd.grad(payoff(logits).sum(), seen[0])[0]

    def first_layer_gradient(self, batch, masks, delta, slope):
        delta, first = delta.detach().requires_grad_(), FirstLayer(self.model)
        output = first.output_of(lambda: self._logits(batch, delta, masks))
        return torch.autograd.grad(output, delta, grad_outputs=slope)[0]

    def normal(self, batch, *name):
        return self.drawn(philox.normal, batch, name)

    def uniform(self, batch, *name):
        return self.drawn(philox.uniform, batch, name)

    def drawn(self, law, batch, name):
        return law(noise_key(self.seed, self.outer_step, *name), batch.examples, batch.tokens, self.perturbation.width)

    def backward(self, loss, delta=None):
        self.tracked = False
        loss.backward()
        if delta is not None:
            gradient, delta.grad = delta.grad, None
            return gradient

    @contextmanager
    def averaged_weights(self, name):
        assert not self.tracked
        yield

    def update(self):
        self.updates += 1
        self.applied = self.updates not in self.skips

    def inner_steps(self):
        k = 0
        while k < self.samples:
            yield k
            k += self.applied
