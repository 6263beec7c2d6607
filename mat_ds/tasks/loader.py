"""Order and batches of examples: pure functions of (seed, outer step), so only the step must be saved to resume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import torch
from torch import Tensor

from mat_ds.methods.batch import MicroBatch
from mat_ds.sampling.keys import Part, generator
from mat_ds.tasks.augment import AugmentConfig, augmented
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.options import DataConfig

# With group_by_length, examples are sorted by length within this many batches, as in transformers' Trainer.
MEGABATCH = 50


class Collator:
    """Turns examples into padded model inputs and labels.

    Args:
        tokenizer: a transformers tokenizer.
        max_length: maximum tokens of an input.
        kind: of the task.
        step: inputs are padded to multiples of it, or of the largest divisor that max_length has in common with it.
    """

    def __init__(self, tokenizer: Any, max_length: int, kind: Kind, step: int = 1):
        step = gcd(step, max_length)
        self._tokenizer = tokenizer if step == 1 else PadsToMultiples(tokenizer, step)
        self.max_length = max_length
        self._kind = kind

    def __call__(self, examples: Sequence[Example], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels of a batch, as the kind of the task makes them."""
        inputs, labels = self._kind.collate(self._tokenizer, examples, self.max_length)
        return {name: _moved(value, device) for name, value in inputs.items()}, _moved(labels, device)

    def augmented(self, example: Example, options: AugmentConfig, key: Sequence[Part]) -> Example:
        """`mat_ds.tasks.augment.augmented`, of the texts that the kind of the task lets be changed."""
        return augmented(example, options, self._kind.noised_texts, key)


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. From pinned memory a GPU fetches it while the host goes on; otherwise the host would wait for all
    that the GPU has to do before."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def _weights(examples: Sequence[Example]) -> Tensor | None:
    """The weights of examples, (B,); None if all are 1."""
    weights = [example.weight for example in examples]
    return None if all(weight == 1.0 for weight in weights) else torch.tensor(weights)


def _probabilities(examples: Sequence[Example]) -> Tensor | None:
    """The probability of each label, (B, C); None if all labels are certain."""
    classes = next((len(example.probabilities) for example in examples if example.probabilities), None)
    if classes is None:
        return None
    rows = torch.zeros(len(examples), classes)
    for row, example in zip(rows, examples, strict=True):
        if example.probabilities:
            row[:] = torch.tensor(example.probabilities)
        else:
            row[example.label] = 1.0
    return rows


class PadsToMultiples:
    """A tokenizer that pads to multiples of `step`; otherwise as the given one."""

    def __init__(self, tokenizer: Any, step: int):
        self._tokenizer, self._step = tokenizer, step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *texts: Any, **form: Any) -> Any:
        multiple = {"pad_to_multiple_of": self._step} if form.get("padding") else {}
        return self._tokenizer(*texts, **multiple, **form)

    def pad(self, rows: Any, **form: Any) -> Any:
        return self._tokenizer.pad(rows, pad_to_multiple_of=self._step, **form)


class TrainLoader:
    """The micro-batches of any outer step, for one rank.

    A global batch is sorted by length, longest first, and cut into micro-batches of `micro_batch_size`, so that little of
    them is padding; its gradient is the same. They are dealt out to the ranks forwards and backwards in turn: at any moment
    all ranks pass over texts of about equal length, and none has always the longest. The last partial batch of an epoch is
    dropped.

    Args:
        examples: training examples in file order.
        collate: turns examples into inputs.
        batch_size: examples of one outer step, over all ranks.
        micro_batch_size: examples of one pass on one rank.
        data, seed: options of the run.
        rank, world_size: this rank and the number of ranks.
    """

    def __init__(
        self, examples: Sequence[Example], collate: Collator, batch_size: int, micro_batch_size: int, data: DataConfig,
        seed: int, rank: int, world_size: int, device: torch.device,
    ):  # fmt: skip
        self.steps_per_epoch = len(examples) // batch_size
        self.dropped_per_epoch = len(examples) % batch_size
        self._examples, self._collate, self._device = examples, collate, device
        self._batch, self._micro = batch_size, micro_batch_size
        self._group_by_length, self._augment, self._seed = data.group_by_length, data.augment, seed
        turns = range(batch_size // micro_batch_size // world_size)
        self._owned = [turn * world_size + (world_size - 1 - rank if turn % 2 else rank) for turn in turns]
        self._epoch, self._order = -1, [0]
        # Of the step asked for last: it is looked at before it is made, while it is watched, and before it is kept.
        self._step, self._batches = -1, list[MicroBatch]()

    def micro_batches(self, outer_step: int) -> list[MicroBatch]:
        """This rank's micro-batches of outer step t, counted from 0 over the whole run; those of the last are at hand."""
        if outer_step != self._step:
            self._step, self._batches = outer_step, self._collated(outer_step)
        return self._batches

    def _collated(self, outer_step: int) -> list[MicroBatch]:
        epoch, position = divmod(outer_step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._epoch_order(epoch)
        first = position * self._batch
        batch = sorted(self._order[first : first + self._batch], key=lambda row: -self._examples[row].length)
        # In an order of its own in each step, the same on every rank: what is measured on a rank's first micro-batch would
        # otherwise be measured on the longest texts.
        key = generator(torch.device("cpu"), self._seed, "micro-batches", outer_step)
        result = []
        for turn in torch.randperm(len(self._owned), generator=key).tolist():
            index = self._owned[turn]
            rows = batch[index * self._micro : (index + 1) * self._micro]
            examples = [self._shown(row, epoch) for row in rows]
            inputs, labels = self._collate(examples, self._device)
            weights, probabilities = _weights(examples), _probabilities(examples)
            moved = (None if value is None else _moved(value, self._device) for value in (weights, probabilities))
            result.append(MicroBatch(inputs, labels, index, *moved))
        return result

    def _shown(self, row: int, epoch: int) -> Example:
        """An example as an epoch shows it."""
        example = self._examples[row]
        if self._augment is None:
            return example
        return self._collate.augmented(example, self._augment, (self._seed, "augment", epoch, row))

    def _epoch_order(self, epoch: int) -> list[int]:
        key = generator(torch.device("cpu"), self._seed, "order", epoch)
        order: list[int] = torch.randperm(len(self._examples), generator=key).tolist()
        if self._group_by_length:
            whole = order[: self.steps_per_epoch * self._batch]
            span = MEGABATCH * self._batch
            grouped = [
                row
                for start in range(0, len(whole), span)
                for row in sorted(whole[start : start + span], key=lambda row: -self._examples[row].length)
            ]
            batches = [grouped[start : start + self._batch] for start in range(0, len(grouped), self._batch)]
            order = [row for index in torch.randperm(len(batches), generator=key) for row in batches[index]]
        return order


def evaluation_batches(examples: Sequence[Example], micro_batch_size: int, rank: int, world_size: int) -> Iterator[list[int]]:
    """Yields the rows of each pass of one rank over an evaluation split, longest examples first.

    All ranks make equally many passes, since a pass is a collective under ZeRO-3. A rank without rows left gets rows of
    another rank as `~row`, a negative number, to be ignored.
    """
    order = sorted(range(len(examples)), key=lambda row: -examples[row].length)
    batches = [order[start : start + micro_batch_size] for start in range(0, len(order), micro_batch_size)]
    for first in range(0, len(batches), world_size):
        mine = first + rank
        yield batches[mine] if mine < len(batches) else [~row for row in batches[-1]]
