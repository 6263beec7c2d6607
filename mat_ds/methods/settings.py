"""What the options of every method have in common, and what a method may ask of its engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from mat_ds.config.section import Section
from mat_ds.errors import Problem


@dataclass(frozen=True)
class Serves:
    """What an engine can do for a method beyond the vocabulary.

    Attributes:
        no_second_order: why a gradient with respect to delta cannot be differentiated again; None: it can.
        half_precision: whether it computes in fp16 or bf16.
    """

    no_second_order: str | None = None
    half_precision: bool = False


class Divergence(NamedTuple):
    """How a method uses the divergence R of two passes.

    Attributes:
        option: what its weight is called.
        weight: its weight in the objective.
        shares_masks: whether both passes drop the same units.
    """

    option: str
    weight: float
    shares_masks: bool = False


class MethodSettings(Section):
    """Options of one method; each method subclasses it, with its `name` as a literal.

    Attributes:
        needs_distributions: whether the method is defined only where a prediction is a distribution of probabilities.
    """

    needs_distributions: ClassVar[bool] = False

    name: str

    @property
    def shortened(self) -> MethodSettings:
        """These options with every loop cut to two rounds; later rounds hold no more than the second. For rehearsals."""
        loops = [name for name in type(self).model_fields if name.endswith("_steps")]
        return self.model_copy(update={name: min(2, getattr(self, name)) for name in loops})

    @property
    def variant(self) -> str:
        """What a user should see of these options beside the method's name."""
        return ""

    @property
    def divergence(self) -> Divergence | None:
        """What becomes of R; None where it is not computed."""
        return None

    @property
    def refuses_idling(self) -> bool:
        """Whether a run ends before its first step whose method would do nothing."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Combinations of these options that cannot work."""
        yield from ()

    def settled(self, serves: Serves) -> MethodSettings:
        """These options with every `auto` replaced by what the engine can serve."""
        return self

    def engine_problems(self, serves: Serves) -> Iterator[Problem]:
        """What these options ask for that the engine cannot serve."""
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
