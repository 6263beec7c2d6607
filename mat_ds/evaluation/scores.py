"""Predictions and scores over whole splits, distributed over ranks, each example exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mat_ds.errors import NonFiniteError
from mat_ds.ranks.collectives import gather_rows, on_rank_zero
from mat_ds.ranks.world import World
from mat_ds.tasks.loader import Collator, evaluation_batches
from mat_ds.tasks.rows import Example
from mat_ds.tasks.spec import TaskSpec

Scores = dict[str, dict[str, float]]
Forward = Callable[[dict[str, Tensor]], Tensor]
Compute = Callable[[dict[str, Tensor], Tensor, list[int]], Tensor]
# Yields the passes over a split, and shows how many are done; the name says what they compute.
Follow = Callable[[str, Sequence[list[int]]], Iterable[list[int]]]


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
    def predict(self, forward: Forward, examples: Sequence[Example], name: str = "evaluation") -> Tensor:
        """Logits (N, ...) in fp32 on the CPU of every rank, in the order of `examples`. Every rank must call it.

        Args:
            forward: the model.
            examples: the same on all ranks.
            name: what the progress is called.

        Raises:
            NonFiniteError: on every rank, if one is not finite.
            RuntimeError: on every rank, if an example was not predicted exactly once.
        """
        return self.each(lambda inputs, labels, rows: forward(inputs), examples, name)

    def each(self, compute: Compute, examples: Sequence[Example], name: str = "evaluation") -> Tensor:
        """`predict` for any function of batches, which may compute gradients.

        Args:
            compute: maps inputs, labels and the B positions in `examples` to (B, ...); all but B must be the same in every
                batch.
            examples, name: as for `predict`.
        """
        rows, found = [], []
        passes = list(evaluation_batches(examples, self._micro, self.world.rank, self.world.size))
        for batch in self._follow(name, passes):
            self._leave_if_told()
            real_rows = [row if row >= 0 else ~row for row in batch]
            inputs, labels = self._collate([examples[row] for row in real_rows], self.device)
            filler = [-1] * (self._micro - len(batch))
            rows += [row if row >= 0 else -1 for row in batch] + filler
            here = compute(inputs, labels, real_rows).detach().float()
            found.append(torch.cat([here, here.new_zeros(len(filler), *here.shape[1:])]))
        shape = found[0].shape[1:]
        # One gather for row numbers and logits: fp64 represents both exactly.
        numbers = torch.tensor(rows, dtype=torch.float64, device=self.device).unsqueeze(1)
        everything = gather_rows(torch.cat([numbers, torch.cat(found).flatten(1).double()], dim=1)).cpu()
        real = everything[everything[:, 0] >= 0]
        order = real[:, 0].long()
        if not torch.equal(order.sort().values, torch.arange(len(examples))):
            raise RuntimeError(f"{len(order)} predictions for {len(examples)} examples")
        if not bool(real.isfinite().all()):
            raise NonFiniteError("a prediction is not finite")
        return real[order.argsort(), 1:].float().view(-1, *shape)

    def scores(self, forward: Forward, splits: Mapping[str, Sequence[Example]]) -> tuple[Scores, float]:
        """The task's metrics on each split, and the score that selects a model; the same on every rank."""
        return self.scores_of({name: self.predict(forward, examples, name) for name, examples in splits.items()}, splits)

    def scores_of(self, logits: dict[str, Tensor], splits: Mapping[str, Sequence[Example]]) -> tuple[Scores, float]:
        """`scores` from existing predictions."""

        def score_them() -> tuple[Scores, float]:
            from mat_ds.tasks.metrics import score, selection_score

            labels = {name: [example.label or 0 for example in examples] for name, examples in splits.items()}
            found = {name: score(self._spec, logits[name].numpy(), labels[name]) for name in splits}
            return found, selection_score(found)

        return on_rank_zero(score_them)
