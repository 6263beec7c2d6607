"""Batches whose rows weigh differently and whose labels are not all certain, and a loss with every option, twice: as a run has
it, and as the oracles define it."""

import torch

from mat_ds.tasks.example import Example
from mat_ds.tasks.loss import LossConfig, TrainedLoss, trained_loss
from mat_ds.tasks.registry import TASKS
from tests.equivalence import losses
from tests.support.tiny import global_batches

OPTIONS = {"class_weights": "auto", "label_smoothing": 0.1, "focal_gamma": 1.5}


def weighted_batches(steps=2, labels=3):
    """Rows weigh from 0 to 2; of every other row the label is a probability of each class, unless it is a score."""
    generator, batches = torch.Generator().manual_seed(2), global_batches(steps, labels=labels)
    for batch in batches:
        rows = len(batch["labels"])
        batch["weights"] = torch.rand(rows, generator=generator) * 2
        batch["weights"][0] = 0.0
        if labels > 1:
            batch["probabilities"] = torch.rand(rows, labels, generator=generator).softmax(1)
            batch["probabilities"][::2] = torch.nn.functional.one_hot(batch["labels"], labels)[::2].float()
            batch["labels"] = batch["probabilities"].argmax(1)
    return batches


def examples_of(batches):
    """The rows of batches as training examples, without their texts."""
    found = []
    for batch in batches:
        for i, label in enumerate(batch["labels"].tolist()):
            probabilities = tuple(batch["probabilities"][i].tolist()) if "probabilities" in batch else None
            found.append(Example(("",), label, weight=batch["weights"][i].item(), probabilities=probabilities))
    return found


def objective_of(batches, labels=3, **options) -> TrainedLoss:
    """The objective of a run on these batches."""
    spec = TASKS["stsb" if labels == 1 else "mnli"].model_copy(update={"weight": "weight"})
    found = trained_loss(LossConfig(**options), spec, examples_of(batches))
    assert found is not None
    return found


def weighted_loss(labels=3):
    """(batches, objective of a run, the oracles' task)."""
    batches, options = weighted_batches(labels=labels), OPTIONS if labels > 1 else {}
    known = {"label_smoothing": "smoothing", "focal_gamma": "gamma"}
    own = losses.Weighted(batches, labels == 1, **{known.get(name, name): value for name, value in options.items()})
    return batches, objective_of(batches, labels, **options), own
