"""What the attack on word embeddings, and the checks of it, make of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mat_ds.evaluation.attacks.embedding import GradientAttack, Perturbed, Search, robustness_curve, worse, worst_at_each
from mat_ds.evaluation.attacks.embedding_balls import Ball, Keys
from mat_ds.evaluation.attacks.embedding_options import AttackOptions
from mat_ds.evaluation.attacks.gradient_free import more, random_search, spsa
from mat_ds.evaluation.attacks.masking import TINY, masking_signs
from mat_ds.evaluation.scores import Evaluator, Forward, Outcome, outcome
from mat_ds.methods.batch import MicroBatch
from mat_ds.models.perturb import EmbeddingPerturbation, word_embedding
from mat_ds.sampling.keys import Part
from mat_ds.tasks.example import Example
from mat_ds.tasks.kinds.base import Kind

# The passes over a split of each check, with the name that their progress has; a step of an attack counts 3.
Work = dict[str, int]


@dataclass(frozen=True)
class Perturbable:
    """A model whose word embeddings can be perturbed: its logits, and what perturbs it."""

    forward: Forward
    perturbation: EmbeddingPerturbation

    def on(self, batch: MicroBatch) -> Perturbed:
        """The logits of a batch, given a perturbation."""

        def perturbed(delta: Tensor | None) -> Tensor:
            with self.perturbation.applied(delta):
                return self.forward(batch.inputs)

        return perturbed


@dataclass(frozen=True)
class EmbeddingAttack:
    """The attack on word embeddings on a split. Every rank must call each method with the same arguments.

    Attributes:
        options: of the attack.
        seed: of its random starts.
        model, surrogate: what is attacked, and the other model of a check, if there is one.
        evaluator: distributes examples over ranks.
        kind: of the task.
        reach: radius of a ball in which every word can become any other.
    """

    options: AttackOptions
    seed: int
    model: Perturbable
    surrogate: Perturbable | None
    evaluator: Evaluator
    kind: Kind
    reach: float

    def curve(self, examples: Sequence[Example], split: str) -> Outcome:
        """The worst outcome of each example at each radius, each part (N, E, ...)."""
        return self._curve(GradientAttack.of(self.options), self.options.curve, examples, split, "attack")

    def checks(self, attacked: Outcome, examples: Sequence[Example], split: str) -> dict[str, Any]:
        """What the checks say about the attack, and the signs of gradient masking in it.

        Args:
            attacked: the curve of the split.
            examples, split: of the split.
        """
        options, radii = self.options, self.options.curve
        ascent, begin = GradientAttack.of(options), self._begins
        ball, width, tries = ascent.ball, self.model.perturbation.width, options.restarts * (options.steps + 1)
        searches: dict[str, Callable[[Perturbed, MicroBatch, Keys], Search]] = {
            "random": lambda model, batch, keys: random_search(model, batch, ball, keys, width, tries, self.kind),
            "gradient_free": lambda model, batch, keys: spsa(model, batch, ball, keys, width, options.queries, self.kind),
        }
        if (other := self.surrogate) is not None:
            searches["transfer"] = lambda model, batch, keys: ascent.from_each(
                model, batch, begin(keys, batch), self.kind, other.on(batch)
            )
        found = {name: self._searched(search, radii, examples, split, name) for name, search in searches.items()}
        twice = GradientAttack(ball, 2 * options.steps, options.first_step, options.loss, options.schedule)
        doubled = self._curve(twice, radii, examples, split, "double steps")
        most = self._largest_entries(ascent, examples, split)
        left = {"attack": attacked, **found}
        points: list[dict[str, Any]] = [
            {
                "radius": radius,
                **{name: self._left(at_radius(one, i)) for name, one in left.items()},
                "double_steps": self._left(worse(at_radius(attacked, i), at_radius(doubled, i))),
                "zero_gradients": float((most[:, i - 1] == 0).double().mean()),
                "tiny_gradients": float((most[:, i - 1] < TINY).double().mean()),
            }
            for i, radius in enumerate(radii)
            if i
        ]
        everything = None
        if beyond := radii_beyond(radii[-1], self.reach):
            last = at_radius(self._curve(ascent, (0.0, *beyond), examples, split, "every word"), -1)
            everything = {"radius": self.reach, "attack": self._left(worse(at_radius(attacked, -1), last))}
        rises = attacked.right is None
        signs = masking_signs(points, everything, len(examples), rises)
        told = {"measured": self.kind.loss_name if rises else self.kind.right_name, "points": points}
        return {**told, **({"everything": everything} if everything else {}), "signs": signs}

    def _left(self, found: Outcome) -> float:
        """The share of right answers; the mean loss where answers are not right or wrong."""
        return float((found.losses if found.right is None else found.right).double().mean())

    def _curve(
        self, ascent: GradientAttack, radii: Sequence[float], examples: Sequence[Example], split: str, name: str
    ) -> Outcome:
        def compute(batch: MicroBatch, rows: list[int]) -> Outcome:
            begins = self._begins(self._keys(split, batch, rows), batch)
            return robustness_curve(self.model.on(batch), batch, begins, radii, ascent, self.kind)

        return self.evaluator.each(compute, examples, f"{split}, {name}")

    def _searched(
        self, search: Callable[[Perturbed, MicroBatch, Keys], Search], radii: Sequence[float], examples: Sequence[Example],
        split: str, name: str,
    ) -> Outcome:  # fmt: skip
        def compute(batch: MicroBatch, rows: list[int]) -> Outcome:
            model = self.model.on(batch)
            with torch.no_grad():
                clean = outcome(self.kind, model(None), batch)
            return worst_at_each(clean, radii, search(model, batch, self._keys(split, batch, rows)))

        return self.evaluator.each(compute, examples, f"{split}, {name.replace('_', ' ')}")

    def _largest_entries(self, ascent: GradientAttack, examples: Sequence[Example], split: str) -> Tensor:
        """The largest entry of each example's gradient at the start of each ascent but the clean one, (N, E - 1)."""

        def compute(batch: MicroBatch, rows: list[int]) -> Outcome:
            (begin, *_), model = self._begins(self._keys(split, batch, rows), batch), self.model.on(batch)
            found = [ascent.gradient(model, batch, radius * begin, self.kind) for radius in self.options.curve[1:]]
            largest = [one.abs().flatten(1).amax(1).view(len(rows), -1).amax(1) for one in found]
            return Outcome(torch.stack(largest, 1), torch.zeros(len(rows), device=batch.mask.device), None)

        return self.evaluator.each(compute, examples, f"{split}, gradients").kept

    def _begins(self, keys: Keys, batch: MicroBatch) -> list[Tensor]:
        """The random starts of a batch; the first is that of an attack without restarts."""
        ball, width = Ball(self.options.norm, self.options.ball), self.model.perturbation.width
        again = [more(keys, "restart", i) for i in range(1, self.options.restarts)]
        return [ball.start(each, batch.mask, width) for each in (keys, *again)]

    def _keys(self, split: str, batch: MicroBatch, rows: Sequence[int]) -> list[tuple[Part, ...]]:
        """The key of the random start of each text of a batch."""
        return list(keys_of_texts((self.seed, "attack", split), rows, batch.texts // len(rows)))


def keys_of_texts(first: tuple[Part, ...], rows: Sequence[int], texts: int) -> Iterator[tuple[Part, ...]]:
    """A key for each text of a batch.

    Args:
        first: what all keys begin with.
        rows: positions of the examples.
        texts: how many each example has; one has no number of its own.
    """
    for row in rows:
        for text in range(texts):
            yield (*first, row, *([text] if texts > 1 else []))


def at_radius(found: Outcome, i: int) -> Outcome:
    """The outcomes at one radius of a curve."""
    return Outcome(*(None if part is None else part[:, i] for part in found))  # type: ignore[arg-type]


def radii_beyond(largest: float, reach: float) -> list[float]:
    """Radii above the largest of an attack up to that of a ball which holds everything, each ten times the one before."""
    radii = []
    while (largest := 10 * largest) < reach:
        radii.append(largest)
    return [*radii, reach] if largest < 10 * reach else []


def reach_of(model: Any, options: AttackOptions, length: int) -> float:
    """The radius of a ball in which every word can become any other, whose embeddings are nowhere further apart.

    Args:
        model: the model.
        options: of the attack.
        length: most tokens of an example.
    """
    table = word_embedding(model).weight.detach().float()
    if options.norm == "linf":
        return 2 * float(table.abs().max())
    return 2 * float(table.norm(dim=1).max()) * (length**0.5 if options.ball == "example" else 1)


def attack_work(options: AttackOptions, examples: int, split: str, reach_radii: int = 3) -> Work:
    """The cost of attack and checks by the name of their progress, where a forward pass of one example is 1.

    Args:
        options: of the attack.
        examples: of the split.
        split: its name.
        reach_radii: how many radii beyond the largest are expected.
    """
    if not options.curve:
        return {f"{split}, attack": 0}
    radii, ascent = len(options.curve) - 1, (3 * options.steps + 1) * options.restarts
    work = {"attack": 1 + radii * ascent}
    if options.checks:
        work |= {
            "random": radii * options.restarts * (options.steps + 1),
            "gradient free": radii * options.queries,
            "double steps": 2 * radii * ascent,
            "gradients": 3 * radii,
            "every word": reach_radii * ascent,
            **({"transfer": radii * ascent * 4 // 3} if options.surrogate else {}),
        }
    return {f"{split}, {name}": examples * passes for name, passes in work.items()}
