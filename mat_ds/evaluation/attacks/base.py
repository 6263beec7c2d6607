"""What text attacks have in common: the model as they see it, what they find, and how they are told what to attack.

A text attack looks for a change of an example's text that keeps its meaning, so that its label still holds, and with which the
model answers wrong. It begins with examples that the model answers rightly; the others count as broken before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.options import TextAttackOptions
from mat_ds.evaluation.scores import Forward, outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation, word_embedding
from mat_ds.sampling.keys import Part
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.kinds.outputs import read_output
from mat_ds.tasks.loader import Collator

Key = tuple[Part, ...]


@dataclass(frozen=True)
class Verdict:
    """What the model does with one text: the loss of its answer at the example's label, and whether it is right."""

    loss: float
    right: bool

    def worse_than(self, other: Verdict) -> bool:
        """Wrong is worse than right, then the greater loss."""
        return (not self.right, self.loss) > (not other.right, other.loss)


@dataclass(frozen=True)
class Attacked:
    """The worst that an attack found for an example.

    Attributes:
        example: with the changed text; the original if nothing was worse.
        before, after: the verdicts on the original and on `example`.
        queries: texts that the model was asked about, the original included.
        notes: what the attack says of how it went, for the example's line beside the report.
    """

    example: Example
    before: Verdict
    after: Verdict
    queries: int
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> bool:
        """Whether the attack made a right answer wrong."""
        return self.before.right and not self.after.right


class Victim:
    """The model under attack. What it is asked is counted: a query is one text that it reads, with its gradient or without.

    Args:
        model: the model, for attacks that look inside; on `device`.
        forward: its logits.
        perturbation: of the model's word embeddings.
        tokenizer, collate, kind: how its inputs are made and its output is read.
        device: of the model.
        batch_size: texts of one pass.
        masked: the model that it was fine-tuned from, with a head for masked words; None if there is none.
    """

    def __init__(
        self, model: Any, forward: Forward, perturbation: EmbeddingPerturbation, tokenizer: Any, collate: Collator, kind: Kind,
        device: torch.device, batch_size: int, masked: Any = None,
    ):  # fmt: skip
        self.model, self.tokenizer, self.kind, self.device = model, tokenizer, kind, device
        self._forward, self._perturbation, self._collate, self.batch_size = forward, perturbation, collate, batch_size
        self._masked = masked and masked.to(device)
        self.queries = 0

    @property
    def word_vectors(self) -> Tensor:
        """The table of word embeddings, (V, H)."""
        table: Tensor = word_embedding(self.model).weight.detach()
        return table

    def judge(self, examples: Sequence[Example]) -> list[Verdict]:
        """The verdict on each example."""
        return [verdict for _, verdict in self.answers(examples)]

    @torch.no_grad()
    def answers(self, examples: Sequence[Example]) -> list[tuple[Tensor, Verdict]]:
        """The logits of each example, (C,) on the CPU, and the verdict on it."""
        found: list[tuple[Tensor, Verdict]] = []
        for first in range(0, len(examples), self.batch_size):
            batch = self._batch_of(examples[first : first + self.batch_size])
            logits = self._forward(batch.inputs)
            losses, right = outcome(self.kind, logits, batch)[1:]
            assert right is not None
            verdicts = map(Verdict, losses.tolist(), right.bool().tolist())
            found += zip(logits.cpu(), verdicts, strict=True)
        self.queries += len(examples)
        return found

    def gradients(self, examples: Sequence[Example]) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs of some examples, and the gradient of each one's loss with respect to its word embeddings, (B, L, H)."""
        batch = self._batch_of(examples)
        delta = torch.zeros(*batch.mask.shape[:2], self._perturbation.width, device=self.device, requires_grad=True)
        with torch.enable_grad(), self._perturbation.applied(delta):
            losses = self.kind.losses(self._forward(batch.inputs), batch)
        (found,) = torch.autograd.grad(losses.sum(), delta)
        self.queries += len(examples)
        return batch.inputs, found

    @property
    def has_masked_head(self) -> bool:
        """Whether `masked_logits` can be asked for."""
        return self._masked is not None

    @torch.no_grad()
    def masked_logits(self, example: Example) -> Tensor:
        """How probable the model that this one was fine-tuned from finds each token in each place, as logits (L, V). It is the
        attacker's, so this is no query."""
        inputs = self._batch_of([example]).inputs
        return read_output(self._masked(**inputs), inputs)[0]

    def offsets(self, example: Example, column: int) -> list[tuple[int, int]]:
        """Where each token of an example's input begins and ends in one of its texts; (0, 0) for what is not of that text.
        Needs a fast tokenizer."""
        read = self.kind.encode(self.tokenizer, [example], self._collate.max_length, return_offsets_mapping=True)
        parts = zip(read["offset_mapping"][0], read.sequence_ids(0), strict=True)
        return [tuple(pair) if part == column else (0, 0) for pair, part in parts]

    def _batch_of(self, examples: Sequence[Example]) -> MicroBatch:
        return MicroBatch(*self._collate(examples, self.device), 0)


class TextAttack(ABC):
    """A text attack.

    Args:
        options: of the text attacks.
        victim: the model.
        column: position of the text that is changed among an example's texts.

    Attributes:
        notes: filled by a search that has something to say of how it went.
    """

    name: ClassVar[str]

    def __init__(self, options: TextAttackOptions, victim: Victim, column: int):
        self.options, self.victim, self.column = options, victim, column
        self.notes: dict[str, Any] = {}

    def prepare(self, examples: Sequence[Example], key: Key) -> dict[str, Any]:
        """Learns what the attacks on all examples share, on every rank alike; returns what the report says about it."""
        return {}

    def attack(self, example: Example, key: Key) -> Attacked:
        """Attacks one example.

        Args:
            example: with its label.
            key: of its random numbers.
        """
        victim, asked, self.notes = self.victim, self.victim.queries, {}
        (before,) = victim.judge([example])
        worst, after = example, before
        if before.right:
            worst, after = self.search(example, before, key)
        return Attacked(worst, before, after, victim.queries - asked, self.notes)

    def figures(self, found: Sequence[Attacked]) -> dict[str, Any]:
        """What the report says of all attacks beside what it says of every kind, given them with their notes."""
        return {}

    @abstractmethod
    def search(self, example: Example, before: Verdict, key: Key) -> tuple[Example, Verdict]:
        """The worst change of an example that the model answers rightly, and its verdict; the example itself and `before` if
        none is worse. At most `options.max_queries` - 1 queries."""

    def text_of(self, example: Example) -> str:
        """The text that is changed."""
        return example.texts[self.column]

    def with_text(self, example: Example, text: str) -> Example:
        """The example with another text."""
        texts = (*example.texts[: self.column], text, *example.texts[self.column + 1 :])
        return replace(example, texts=texts, tokens=None)

    def worst_of(
        self, candidates: Iterable[Example], worst: Example, verdict: Verdict, queries: int, at_a_time: int = 16
    ) -> tuple[Example, Verdict]:
        """The worst of some candidates and what was worst before; stops at the first pass that finds a wrong answer.

        Args:
            candidates: most promising first.
            worst, verdict: the worst so far.
            queries: how many candidates may be tried.
            at_a_time: candidates of one pass.
        """
        rest = iter(islice(candidates, queries))
        while verdict.right and (some := list(islice(rest, at_a_time))):
            for candidate, found in zip(some, self.victim.judge(some), strict=True):
                if found.worse_than(verdict):
                    worst, verdict = candidate, found
        return worst, verdict
