"""Base classes of the methods' options, and what the options can ask of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

from pydantic import Field

from mat_ds.config.section import RankGroups, Section
from mat_ds.errors import Problem


@dataclass(frozen=True)
class Serves:
    """What an engine can do.

    Attributes:
        no_second_order: the reason why `delta_gradient` cannot be differentiable; None if it can.
        no_partial_pass: the reason why a pass cannot end at the first layer; None if it can.
        half_precision: whether the model computes in fp16 or bf16.
    """

    no_second_order: str | None = None
    no_partial_pass: str | None = None
    half_precision: bool = False


class Divergence(NamedTuple):
    """How a method uses the divergence R of two passes.

    Attributes:
        option: name of the option with its weight.
        weight: its weight in the objective.
        shares_masks: whether both passes drop the same units.
    """

    option: str
    weight: float
    shares_masks: bool = False


class Divided(NamedTuple):
    """How the ranks are divided among chains of the parameters.

    Attributes:
        chains: their number, or what it follows from.
        average_moments: whether they average the optimizer's moments too, where they meet.
        compression: how what they send there is rounded.
    """

    chains: str | int = "one"
    average_moments: bool = False
    compression: str = "none"


class MethodSettings(Section):
    """Options of one method. Each method has a subclass, whose `name` is a literal.

    Attributes:
        needs_distributions: whether the method is defined only for predictions that are probabilities, not for regression.
        needs_head: whether it changes the head of a classifier, which a model that writes text does not have.
    """

    needs_distributions: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False

    name: str

    @property
    def shortened(self) -> MethodSettings:
        """These options with at most two rounds of every loop, which need as much memory as all of them. For `mat-ds plan`."""
        loops = [name for name in type(self).model_fields if name.endswith("_steps")]
        return self.model_copy(update={name: min(2, getattr(self, name)) for name in loops})

    @property
    def variant(self) -> str:
        """What is shown to the user beside the method's name; may be empty."""
        return ""

    @property
    def divided(self) -> Divided:
        """How the ranks are divided among chains of the parameters."""
        return Divided()

    @property
    def divergence(self) -> Divergence | None:
        """How R is used; None if it is not computed."""
        return None

    @property
    def separate_passes(self) -> bool:
        """Whether the perturbation is found in passes of its own (`Engine.probe`, `Engine.delta_gradient`), not in those that
        train; the former are what `model.compile=graphs` replays."""
        return False

    @property
    def radius_powers(self) -> Mapping[str, float]:
        """The options that grow with the radius of the perturbation, the radius itself first, and the power of it by which each
        does; empty if there is none. For `mat-ds radius`."""
        return {}

    def at_radius(self, radius: float) -> Self:
        """These options with the perturbation at another radius, and all else in proportion; to four digits.

        Raises:
            ValueError: if there is no radius, or it is 0.
        """
        powers = self.radius_powers
        if not (now := getattr(self, next(iter(powers)), 0.0) if powers else 0.0):
            raise ValueError(f"{self.name} has no radius to scale")
        factors = {name: (radius / now) ** power for name, power in powers.items() if power}
        return self.model_copy(update={name: float(f"{getattr(self, name) * factor:.4g}") for name, factor in factors.items()})

    @property
    def counted_layers(self) -> int | None:
        """How many layers the model has, as the method's cost counts them; None if every pass goes through all of them."""
        return None

    @property
    def refuses_idling(self) -> bool:
        """Whether to refuse a run in which the method has no effect."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Yields a problem for each combination of these options that cannot work."""
        yield from ()

    def settled(self, serves: Serves) -> MethodSettings:
        """These options with every `auto` replaced by what the engine can do."""
        return self

    def engine_problems(self, serves: Serves) -> Iterator[Problem]:
        """Yields a problem for each option that asks for something that the engine cannot do."""
        yield from ()


class AdversarialSettings(MethodSettings):
    """Options of a method that perturbs word embeddings."""

    on_invisible: Literal["warn", "error"] = Field(
        "warn",
        description="about a perturbation that rounding hides, that its steps do not move, or that changes nothing: "
        "train or not",
    )

    @property
    def refuses_idling(self) -> bool:
        return self.on_invisible == "error"


class ChainedSettings(MethodSettings):
    """Options of a method whose ranks can be divided among several chains of the parameters."""

    chains: RankGroups = Field(
        "one",
        description="chains of the parameters, each of equally many ranks with an equal share of the batch; they meet once per "
        "outer step, or every train.local_steps of them, where the nodes' links are slow",
    )

    chains_moments: Literal["own", "average"] = Field(
        "own",
        description="the optimizer's moments: each chain's own, or averaged too where they meet, at three times the bytes",
    )

    chains_compression: Literal["none", "bf16", "int8"] = Field(
        "none",
        description="of what chains send where they meet: bf16, int8: their moves since they met last, in 2 bytes a "
        "parameter or in 1, what int8 leaves out being sent the next time; none: the parameters, in 4; costs memory, 4 bytes "
        "for each parameter of a shard, with int8 8",
    )

    @property
    def divided(self) -> Divided:
        return Divided(self.chains, self.chains_moments == "average", self.chains_compression)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.chains_compression == "none":
            return
        key, value = "method.chains_compression", self.chains_compression
        if self.chains in ("one", 1):
            yield Problem(key, value, "says what chains of the parameters send each other, and there is one",
                          "leave it out, or pass method.chains=per_node, per_rank or a number")  # fmt: skip
        if self.chains_moments == "average":
            yield Problem(key, value, "does not reach the moments that method.chains_moments=average sends, in fp32",
                          "pass method.chains_moments=own, or leave it out")  # fmt: skip
