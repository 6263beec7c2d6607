"""The interface between a fine-tuning method and the engine that runs it.

A method never names DeepSpeed, ranks, dtypes or devices. In each outer step it gets the micro-batches of this rank and an
`Engine`, and it returns its losses. To add a method, write one file, one line in `METHODS`, one recipe and one test that
compares it with plain torch in float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, overload

from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import MethodSettings
from mat_ds.sampling.chain import Chain
from mat_ds.sampling.keys import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mat_ds.methods.moves import Moves

# Identifies the dropout masks of a pass within an outer step and micro-batch: passes with equal values drop the same units.
# None switches dropout off.
Masks = tuple[Part, ...] | None
# Changes weights in place, given a dictionary from their names to values. The dictionary may have only some of the weights.
Fold = Callable[["dict[str, Tensor]"], None]


class Engine(Protocol):
    """What a method can ask for. `mat_ds/engine/engine.py` implements it on DeepSpeed."""

    def forward(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        """Logits (B, C) at x + delta, with a graph for `backward`."""

    def forward_pair(
        self, batch: MicroBatch, delta: Tensor | None, masks: Masks, share_masks: bool = False, train_words: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Clean and perturbed logits, each (B, C), with one graph for `backward`.

        Args:
            batch: the micro-batch.
            delta: the perturbation (B, L, H); None: two clean passes with different dropout masks.
            masks: the dropout masks of the two passes.
            share_masks: whether both passes drop the same units.
            train_words: whether the perturbed pass has a gradient to the word embeddings too.
        """

    def probe(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> Tensor:
        """Logits (B, C) at x + delta in fp32, without a graph."""

    def delta_gradient(
        self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor], differentiable: bool = False
    ) -> Tensor:
        """d payoff(logits at x + delta) / d delta, (B, L, H) in fp32, finite even when the model computes in fp16.

        Makes one forward and one backward pass, without communication between ranks.

        Args:
            batch: the micro-batch.
            masks: the dropout masks of the pass.
            delta: the point at which the gradient is taken, (B, L, H); a constant.
            payoff: a function of the fp32 logits (B, C) that returns one number per sample, or their sum.
            differentiable: whether the result has a graph to the parameters, including those that `payoff` depends on. Only
                SALT needs it, and not every engine can do it (`Serves.no_second_order`).
        """

    def forward_split(self, batch: MicroBatch, masks: Masks, delta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `forward`, with the output of the model's first layer beside the logits, for `backward`; its shape is the model's
        own affair. Not every engine can do it (`Serves.no_partial_pass`), nor the two that follow."""

    def first_layer_slope(self, batch: MicroBatch, masks: Masks, delta: Tensor, payoff: Callable[[Tensor], Tensor]) -> Tensor:
        """d payoff(logits at x + delta) / d output of the first layer, in its shape and fp32, up to a positive factor for each
        sample; otherwise as `delta_gradient`."""

    def first_layer_gradient(self, batch: MicroBatch, masks: Masks, delta: Tensor, slope: Tensor) -> Tensor:
        """d <slope, output of the first layer at x + delta> / d delta, (B, L, H) in fp32: a forward and a backward pass through
        the first layer and what is before it, without communication between ranks.

        Args:
            batch: the micro-batch.
            masks: the dropout masks of the pass; the layer drops what it does in a whole pass with these.
            delta: the point at which the gradient is taken, (B, L, H); a constant.
            slope: in the shape of the layer's output.
        """

    def normal(self, batch: MicroBatch, *name: Part) -> Tensor:
        """Standard normal noise (B, L, H) in fp32.

        The value on a real token depends only on the seed, the outer step, `name`, and the positions of example, token and
        hidden unit. It does not depend on the split into ranks and micro-batches.
        """

    def uniform(self, batch: MicroBatch, *name: Part) -> Tensor:
        """As `normal`, but uniform on [-1, 1)."""

    @overload
    def backward(self, loss: Tensor) -> None: ...
    @overload
    def backward(self, loss: Tensor, delta: Tensor) -> Tensor: ...
    def backward(self, loss: Tensor, delta: Tensor | None = None) -> Tensor | None:
        """Adds the gradient of a micro-batch's mean loss to the gradients of the next update.

        Args:
            loss: a scalar.
            delta: a leaf tensor that requires a gradient, (B, L, H), or the first layer's output of `forward_split`.

        Returns:
            d loss / d delta in its shape and fp32, without loss scaling, if `delta` is given.
        """

    def averaged_weights(self, name: str) -> AbstractContextManager[None]:
        """A context in which passes use a running average of the parameters.

        It must not be entered between a `forward` and its `backward`.

        Args:
            name: a key of `chain.averages`.
        """

    def update(self) -> None:
        """Updates the parameters once with the gradients added since the last update."""

    def inner_steps(self) -> Iterator[int]:
        """Yields k = 0 .. K-1, K being `chain.samples`; k again if its update was skipped because of an fp16 overflow."""


class Objective(Protocol):
    """The two losses of a task (`mat_ds/tasks/kinds`)."""

    @property
    def directions(self) -> int:
        """Number of divergences that R is the sum of: two for the symmetric KL, one for a squared difference."""

    def loss(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The task loss L, averaged over the samples of a micro-batch: a scalar."""

    def divergence(self, p_logits: Tensor, q_logits: Tensor, batch: MicroBatch) -> Tensor:
        """The divergence R of two predictions of a micro-batch, per sample: (samples,)."""


class Method(ABC):
    """Base class of the fine-tuning methods. A subclass defines `Settings`, `cost` and `step`; all else has defaults here.

    Args:
        settings: the method's options.
        objective: the losses of the task.
    """

    Settings: ClassVar[type[MethodSettings]]

    def __init__(self, settings: Any, objective: Objective):
        self.settings, self.objective = settings, objective

    @classmethod
    def perturbs(cls) -> bool:
        """Whether the method perturbs word embeddings, that is, whether it defines `adversary`."""
        return cls.adversary is not Method.adversary

    @staticmethod
    def prepare_model(model: nn.Module, settings: Any) -> Fold | None:
        """Changes the model before its first pass, for instance by a hook. Must not add, replace or rename parameters.

        Args:
            model: on any device, of any task; it may have adapters.
            settings: the method's options.

        Returns:
            A function that turns trained weights into those of an unchanged model that predicts the same; None if the weights
            are the same.
        """
        return None

    @property
    def chain(self) -> Chain:
        """How the parameters are sampled in one outer step: number of updates, noise and averages."""
        return Chain()

    @property
    @abstractmethod
    def cost(self) -> int | Fraction:
        """Cost of one outer step in forward passes; a backward pass counts 2 if it reaches the parameters, 1 if only delta."""

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor | None:
        """The perturbation (B, L, H) with which the current parameters would be trained; None if the method has none.

        Args:
            engine: the engine.
            batch: the micro-batch to perturb.
            moves: collects statistics of every step of the perturbation.
        """
        return None

    @abstractmethod
    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        """Makes one outer step on this rank's micro-batches; returns the means of its losses, one of them named `loss`."""


def flaw_of(method: object) -> str | None:
    """The reason why an object cannot be used as a method; None if it can."""
    if not (isinstance(method, type) and issubclass(method, Method)):
        return "is not a subclass of mat_ds.Method"
    settings = getattr(method, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, MethodSettings)):
        return "has no `Settings` that are a subclass of mat_ds.MethodSettings"
    if missing := sorted(method.__abstractmethods__):
        return f"has no {', '.join(missing)}"
    return None


def plain(units: int | Fraction) -> int | float:
    """A cost as a number for files and tables: whole where it is."""
    return int(units) if units == int(units) else float(units)


def units_text(units: float | Fraction) -> str:
    """A cost as it is shown, with at most two decimals."""
    return f"{int(units):,}" if units == int(units) else f"{float(units):,.2f}"


class Means:
    """Collects scalars by name and returns their means, without waiting for the device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach().float())

    def __call__(self) -> dict[str, Tensor]:
        from torch import stack

        return {name: stack(values).mean() for name, values in self._values.items()}
