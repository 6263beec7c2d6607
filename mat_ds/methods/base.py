"""What a method is, what it sees of the engine, and what it must say about itself.

A method never names DeepSpeed, ranks, dtypes or devices. It is given the micro-batches of one outer step and an engine
with a vocabulary of a dozen words (`Engine` below); it returns what it measured. Adding a method is one file, one line
in `METHODS`, one recipe and one test against a plain-torch oracle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, overload

import torch
from torch import Tensor, nn

from mat_ds.methods.moves import Moves
from mat_ds.methods.settings import MethodSettings
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.keys import Part

# Names the dropout masks of a pass within its outer step and micro-batch: passes with equal masks drop the same
# units. None switches dropout off.
Masks = tuple[Part, ...] | None
# Changes weights, by name, in place; of some of them it may be given a part.
Fold = Callable[[dict[str, Tensor]], None]


@dataclass(frozen=True)
class MicroBatch:
    """A slice of a global batch, the same whatever ranks there are.

    Attributes:
        inputs: what the model takes: `input_ids`, `attention_mask`, ... each (B, L).
        labels: (B,) class indices, or real scores.
        index: its position among the equally large micro-batches of the global batch, part of every key of its dropout.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    index: int

    @property
    def mask(self) -> Tensor:
        """(B, L, 1) fp32: 1 on real tokens, 0 on pads."""
        return self.inputs["attention_mask"].unsqueeze(-1).float()

    @property
    def examples(self) -> Tensor:
        """(B,): the position of each example in the global batch."""
        return torch.arange(len(self.labels), device=self.labels.device) + self.index * len(self.labels)

    @property
    def tokens(self) -> Tensor:
        """(B, L): the number of each real token of its example, whatever padding stands around it."""
        return (self.inputs["attention_mask"].long().cumsum(1) - 1).clamp(min=0)


class Engine(Protocol):
    """The vocabulary between methods and what runs them (`mat_ds/engine/engine.py` on DeepSpeed)."""

    def forward(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        """Logits (B, C) at x + delta with a graph for `backward`."""

    def forward_pair(
        self, batch: MicroBatch, delta: Tensor | None, masks: Masks, share_masks: bool = False, train_words: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Clean and perturbed logits with one graph for `backward`.

        Args:
            batch: the micro-batch.
            delta: (B, L, H); None for two clean passes that differ in their masks.
            masks: of the two passes.
            share_masks: whether both drop the same units.
            train_words: whether the perturbed pass too has a gradient to the word embeddings.
        """

    def probe(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        """Logits (B, C) in fp32 at x + delta, without a graph."""

    def delta_gradient(
        self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor], differentiable: bool = False
    ) -> Tensor:
        """d payoff(logits at x + delta) / d delta, (B, L, H) in fp32, finite even in fp16. Nothing crosses ranks.

        Args:
            batch, masks: of the one pass that is made.
            delta: where; taken as a constant.
            payoff: of the fp32 logits (B, C) alone: one number for each sample, or their sum.
            differentiable: whether the result has a graph to the parameters, also to those behind `payoff`. For the one method
                that differentiates its adversary; not every engine can (`Serves.no_second_order`).
        """

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        """Standard normal (B, L, H) fp32; on a real token a function of outer step, name, example, token and unit alone."""

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        """Uniform on [-1, 1), else as `normal`."""

    @overload
    def backward(self, loss: Tensor) -> None: ...
    @overload
    def backward(self, loss: Tensor, delta: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Tensor | None:
        """Adds the gradient of one micro-batch's mean loss to the next update.

        Returns:
            d loss / d delta (B, L, H) in fp32, unscaled, if a leaf `delta` that requires it is given.
        """

    def averaged_weights(self, name: str) -> AbstractContextManager[None]:
        """Within it, passes are made with a running average of `chain.averages`; not between a forward and its backward."""

    def update(self) -> None:
        """One sample of the parameters from the gradients added since the last one."""

    def inner_steps(self) -> Iterator[int]:
        """0 .. K-1 of the method's chain, each once its update has been applied: what fp16 overflow skipped comes again."""


class Objective(Protocol):
    """The two losses of a task (`mat_ds/tasks/kinds`)."""

    @property
    def directions(self) -> int:
        """How many divergences R adds up: two where it is symmetrised, one where it is symmetric by itself."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L: mean over the examples, a scalar."""

    def divergence(self, p_logits: Tensor, q_logits: Tensor) -> Tensor:
        """R: one number per example, (B,)."""


class Method(ABC):
    """One fine-tuning method: a subclass has `Settings`, `cost` and `step`, and what of the rest is not as it stands here.

    Args:
        settings: its options.
        objective: the losses of the task.
    """

    Settings: ClassVar[type[MethodSettings]]

    def __init__(self, settings: Any, objective: Objective):
        self.settings, self.objective = settings, objective

    @classmethod
    def perturbs(cls) -> bool:
        """Whether it perturbs word embeddings: then it says with what."""
        return cls.adversary is not Method.adversary

    @staticmethod
    def prepare_model(model: nn.Module, settings: Any) -> Fold | None:
        """Gives a model what the method has of its own in it, before its first pass; parameters stay what and where they are.

        Args:
            model: on any device, of any task; it may have adapters.
            settings: the method's options.

        Returns:
            What changes trained weights, by name, into those of a model without it; None where there is nothing to change.
        """
        return None

    @property
    def chain(self) -> Chain:
        """What the parameters' sampler has to do in one outer step."""
        return Chain()

    @property
    @abstractmethod
    def cost(self) -> int:
        """Forward units of one outer step: a forward is 1, a backward to the parameters 2, to delta alone 1."""

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor | None:
        """The perturbation (B, L, H) that would train the present parameters on `batch`; None for a method without one.

        Args:
            engine, batch: whose.
            moves: is told of every step of it.
        """
        return None

    @abstractmethod
    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """One outer step on this rank's micro-batches; returns means of what it measured, `loss` among them."""


def flaw_of(method: object) -> str | None:
    """Why something cannot serve as a method; None where it can."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        return "is not a subclass of mat_ds.Method"
    settings = getattr(method, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        return "has no `Settings` that are a subclass of mat_ds.MethodSettings"
    if missing := sorted(method.__abstractmethods__):
        return f"has no {', '.join(missing)}"
    return None


class Means:
    """Running means of scalars, without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def __call__(self) -> dict[str, Tensor]:
        return {name: torch.stack(values).mean() for name, values in self._values.items()}
