"""Kinds of tasks in plain float64 torch, for comparison with sharded runs of every method that is defined for them.

Like `oracle.py`, this shares no code with mat_ds. A new kind is one class in `TASKS`: a small model, its logits with the
perturbation added through `inputs_embeds`, the loss and the divergence of each sample, and batches.
"""

from typing import ClassVar

import torch
from transformers import RobertaForSequenceClassification

from tests.equivalence.oracle import Task, logits_of
from tests.support.tiny import global_batches, tiny_config

EVERY_METHOD = (
    "vanilla", "mat", "freelb", "pgd", "freeat", "smart", "alum", "rdrop", "neftune", "r3f", "r4f", "salt", "sam",
)  # fmt: skip


class OfKind(Task):
    """A kind of task.

    Attributes:
        spec: the keys of the task's description, with which mat_ds makes the kind.
        methods: those that are defined for it.
        directions: how many divergences R is the sum of.
    """

    spec: ClassVar[dict]
    methods = EVERY_METHOD
    directions = 2

    def __init__(self):
        pass

    def model(self, **settings):
        """The model before training, the same at each call."""
        raise NotImplementedError

    def logits(self, model, batch, delta=None):
        """What losses and divergences compare, one row for each sample."""
        return logits_of(model, batch, delta)

    def losses(self, z, batch):
        """(samples,)."""
        raise NotImplementedError

    def divergences(self, z, z_adv, batch):
        """(samples,)."""
        raise NotImplementedError

    def batches(self):
        """One dict of inputs and `labels` per outer step, of eight samples."""
        raise NotImplementedError


def built(model_class, **settings):
    """A model of one layer."""
    torch.default_generator.manual_seed(0)
    return model_class(tiny_config(num_hidden_layers=1, **settings))


class MultiLabel(OfKind):
    """Four labels; of the samples some have none of them."""

    spec: ClassVar = {"kind": "multi_label", "text": ["text"], "labels": ["a", "b", "c", "d"]}

    def model(self, **settings):
        return built(RobertaForSequenceClassification, labels=4, problem_type="multi_label_classification", **settings)

    def losses(self, z, batch):
        p, y = z.sigmoid(), batch["labels"]
        return -(y * p.log() + (1 - y) * (1 - p).log()).sum(1) / 4

    def divergences(self, z, z_adv, batch):
        total = 0.0
        for p, q in ((z.sigmoid(), z_adv.sigmoid()), (z_adv.sigmoid(), z.sigmoid())):
            total = total + (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
        return total / 4

    def batches(self):
        found = global_batches()
        generator = torch.Generator().manual_seed(2)
        for batch in found:
            batch["labels"] = torch.randint(0, 2, (8, 4), generator=generator).float()
            batch["labels"][0] = 0.0
        return found


TASKS = {task.spec["kind"]: task for task in (MultiLabel(),)}
