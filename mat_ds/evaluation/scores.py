"""Predictions and scores over whole splits, distributed over ranks, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mat_ds.errors import NonFiniteError
from mat_ds.methods.batch import MicroBatch
from mat_ds.ranks.collectives import gather_rows, max_over_ranks, on_rank_zero
from mat_ds.ranks.world import World
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.loader import Collator, evaluation_batches
from mat_ds.tasks.measures import LOSS
from mat_ds.tasks.spec import TaskSpec

Scores = dict[str, dict[str, float]]
# The logits of a model for its inputs.
Forward = Callable[[dict[str, Tensor]], Tensor]
Compute = Callable[[MicroBatch, list[int]], "Outcome"]
# Yields the passes over a split, and shows how many are done; the name says what they compute.
Follow = Callable[[str, Sequence[list[int]]], Iterable[list[int]]]


class Outcome(NamedTuple):
    """The answers to B samples, or to the N examples of a split.

    Attributes:
        kept: what the kind of the task keeps of the logits, (B, ...).
        losses: fp32, (B,); meaningless where the label is unknown.
        right: whether each answer is correct, (B,); None if answers are not simply right or wrong.
    """

    kept: Tensor
    losses: Tensor
    right: Tensor | None


def outcome(kind: Kind, logits: Tensor, batch: MicroBatch) -> Outcome:
    """What the logits of a pass say about its samples."""
    return Outcome(kind.kept(logits, batch), kind.losses(logits, batch), kind.right(logits, batch))


class Evaluator:
    """Scores a model on splits of a task.

    Args:
        spec: the task.
        collate: turns examples into inputs.
        micro_batch_size: examples of one pass on one rank.
        world, device: this rank.
        leave_if_told: called before each pass, on every rank; may raise `Interrupted`.
        follow: shows the progress.
    """

    def __init__(
        self,
        spec: TaskSpec,
        collate: Collator,
        micro_batch_size: int,
        world: World,
        device: torch.device,
        leave_if_told: Callable[[], None] = lambda: None,
        follow: Follow = lambda name, passes: passes,
    ):
        self._spec, self._collate, self._micro = spec, collate, micro_batch_size
        self.world, self.device, self._leave_if_told, self._follow = world, device, leave_if_told, follow

    @torch.no_grad()
    def predict(self, forward: Forward, examples: Sequence[Example], name: str = "evaluation") -> Outcome:
        """The model's answers, in fp32 on the CPU of every rank, in the order of `examples`. Every rank must call it.

        Args:
            forward: the model.
            examples: the same on all ranks.
            name: what the progress is called.

        Raises:
            NonFiniteError: on every rank, if one is not finite.
            RuntimeError: on every rank, if an example was not predicted exactly once.
        """
        kind = kind_of(self._spec)
        return self.each(lambda batch, rows: outcome(kind, forward(batch.inputs), batch), examples, name)

    def each(self, compute: Compute, examples: Sequence[Example], name: str = "evaluation") -> Outcome:
        """`predict` for any function of batches, which may compute gradients.

        Args:
            compute: maps a batch and the B positions of its samples in `examples` to their outcome, of which each part is
                (B, ...).
            examples, name: as for `predict`.
        """
        rows, found = [], list[Outcome]()
        passes = list(evaluation_batches(examples, self._micro, self.world.rank, self.world.size))
        for batch in self._follow(name, passes):
            self._leave_if_told()
            real_rows = [row if row >= 0 else ~row for row in batch]
            here = compute(MicroBatch(*self._collate([examples[row] for row in real_rows], self.device), 0), real_rows)
            rows += [row if row >= 0 else -1 for row in batch] + [-1] * (self._micro - len(batch))
            found.append(here)
        gathered = [self._gathered([here[i] for here in found]) for i in range(len(found[0])) if found[0][i] is not None]
        # Row numbers and values go in one gather: fp64 represents both exactly.
        numbers = torch.tensor(rows, dtype=torch.float64, device=self.device).unsqueeze(1)
        everything = gather_rows(torch.cat([numbers, *(part.reshape(len(part), -1) for part in gathered)], dim=1)).cpu()
        real = everything[everything[:, 0] >= 0]
        order = real[:, 0].long()
        if not torch.equal(order.sort().values, torch.arange(len(examples))):
            raise RuntimeError(f"{len(order)} predictions for {len(examples)} examples")
        if not bool(real.isfinite().all()):
            raise NonFiniteError("a prediction is not finite")
        widths = [part[0].numel() for part in gathered]
        parts = real[order.argsort(), 1:].float().split(widths, 1)
        kept, losses, *right = (part.view(-1, *like.shape[1:]) for part, like in zip(parts, gathered, strict=True))
        return Outcome(kept, losses, right[0].bool() if right else None)

    def own(self, name: str, rows: Sequence[int]) -> Iterator[int]:
        """Yields this rank's share of some rows, and shows the progress; no pass over them may be a collective."""
        for (row,) in self._follow(name, [[row] for row in rows[self.world.rank :: self.world.size]]):
            self._leave_if_told()
            yield row

    def _gathered(self, parts: Sequence[Tensor | None]) -> Tensor:
        """The same part of all batches of this rank in one fp64 tensor, padded with zeros: each batch to the size of
        micro-batches, and all other dimensions to the longest on any rank."""
        tensors = [part.detach().double() for part in parts if part is not None]
        longest = max_over_ranks([max(sizes) for sizes in zip(*(part.shape[1:] for part in tensors), strict=True)])
        whole = tensors[0].new_zeros(len(tensors), self._micro, *longest)
        for i, part in enumerate(tensors):
            whole[i][tuple(map(slice, part.shape))] = part
        return whole.flatten(0, 1)

    def scores(self, forward: Forward, splits: Mapping[str, Sequence[Example]]) -> tuple[Scores, float]:
        """The task's metrics and the mean loss of each split, and the score that selects a model; the same on every rank."""
        return self.scores_of({name: self.predict(forward, examples, name) for name, examples in splits.items()}, splits)

    def scores_of(self, found: Mapping[str, Outcome], splits: Mapping[str, Sequence[Example]]) -> tuple[Scores, float]:
        """`scores` from existing predictions."""

        def score_them() -> tuple[Scores, float]:
            from mat_ds.tasks.metrics import selection_score

            scores = {name: self._metrics(found[name], splits[name]) for name in splits}
            losses = {name: float(found[name].losses.double().mean()) for name in splits}
            return {name: {**scores[name], LOSS: losses[name]} for name in splits}, selection_score(scores)

        return on_rank_zero(score_them)

    def metrics_of(self, found: Outcome, examples: Sequence[Example]) -> dict[str, float]:
        """The task's metrics on a split whose labels may leave some undefined: those are left out."""
        return on_rank_zero(lambda: self._metrics(found, examples))

    def _metrics(self, found: Outcome, examples: Sequence[Example]) -> dict[str, float]:
        from mat_ds.tasks.metrics import score

        return score(self._spec, found.kept.numpy(), examples)
