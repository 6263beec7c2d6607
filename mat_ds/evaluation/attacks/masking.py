"""Tells signs of gradient masking: that an attack fails not because the model is robust, but because its gradients lead nowhere
(Athalye et al., 2018; Carlini et al., 2019, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Accuracies differ if they do by more than this, and by more than one example; losses, by more than this share.
TOLERANCE = 0.01
# How many examples may have no gradient, and how many may be right in a ball in which every word can become any other.
MOST_ZERO, MOST_RIGHT = 0.1, 0.1
# A gradient without an entry above this is called tiny.
TINY = 1e-8

# What a check found, in words; those of `OTHERS` follow no gradient of the model.
OTHERS = {
    "gradient_free": "an attack without gradients finds more than the attack with gradients",
    "random": "random noise of the same size finds more than the attack with gradients",
    "transfer": "perturbations made on the surrogate break more than those made on the model",
}
RULES = (
    f"{OTHERS['gradient_free']} (SPSA)",
    OTHERS["random"],
    OTHERS["transfer"],
    "twice as many steps find more",
    f"more than {MOST_ZERO:.0%} of the examples have a gradient that is zero where the ascent begins",
    f"more than {MOST_RIGHT:.0%} stay right in a ball in which every word can become any other",
    f"'more' is by over {TOLERANCE:.0%} of the examples and by two of them at least; of losses, by over {TOLERANCE:.0%}",
)


def masking_signs(
    points: Sequence[Mapping[str, Any]], everything: Mapping[str, Any] | None, examples: int, rises: bool
) -> list[str]:
    """The signs of gradient masking, each in words with its numbers; empty if there is none.

    Args:
        points: at each radius, `radius` and `zero_gradients`, and what is left by `attack`, `double_steps`, `random`,
            `gradient_free` and perhaps `transfer`: the share of right answers, or the mean loss.
        everything: `radius` of a ball in which every word can become any other, and what is left in it; None: not measured.
        examples: how many were measured.
        rises: whether what is left is a loss, which attacks raise.
    """
    return list(_signs(points, everything, examples, rises))


def _signs(
    points: Sequence[Mapping[str, Any]], everything: Mapping[str, Any] | None, examples: int, rises: bool
) -> Iterator[str]:
    def stronger(one: float, other: float) -> bool:
        """Whether leaving `one` is clearly worse for the model than leaving `other`."""
        if rises:
            return one > (1 + TOLERANCE) * other
        return other - one > TOLERANCE and (other - one) * examples > 1.5

    def at(point: Mapping[str, Any], name: str) -> str:
        return f"at radius {point['radius']:g} it leaves {point[name]:.4g}, the attack {point['attack']:.4g}"

    for name, words in {**OTHERS, "double_steps": "twice as many steps find more: the attack is too weak to rely on"}.items():
        found = [point for point in points if name in point and stronger(point[name], point["attack"])]
        if found:
            worst = max(found, key=lambda point: abs(point[name] - point["attack"]))
            yield f"{words} ({at(worst, name)})"
    if points and (zero := max(point["zero_gradients"] for point in points)) > MOST_ZERO:
        yield f"the gradient of {zero:.0%} of the examples is zero where the ascent begins"
    if everything and not rises and everything["attack"] > MOST_RIGHT:
        yield (
            f"{everything['attack']:.0%} stay right at radius {everything['radius']:.3g}, where every word can become any other"
        )
