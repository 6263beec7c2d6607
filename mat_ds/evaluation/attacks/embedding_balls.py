"""The balls in which word embeddings are perturbed, and random points of them.

Shapes: B texts, L tokens, H width of the word embeddings. A perturbation delta (B, L, H) is fp32 and zero on padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from mat_ds.methods.ops import l2, normalise
from mat_ds.sampling.keys import Part, generator

Keys = Sequence[tuple[Part, ...]]


@dataclass(frozen=True)
class Ball:
    """A ball around zero.

    Attributes:
        norm: `linf` or `l2`.
        of: `example`, whose norm is over (L, H), or `token`, each with a norm over H of its own.
    """

    norm: str
    of: str = "example"

    def project(self, delta: Tensor, radius: float) -> Tensor:
        """The nearest point of the ball: entries are clipped (`linf`), or vectors rescaled (`l2`)."""
        if self.norm == "linf":
            return delta.clamp(-radius, radius)
        vectors = self._vectors(delta)
        return (vectors * (radius / l2(vectors).clamp(min=radius))).view_as(delta)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 that a linear function with this gradient rises most in; zero where the gradient is."""
        return gradient.sign() if self.norm == "linf" else self._unit(gradient)

    def start(self, keys: Keys, mask: Tensor, width: int) -> Tensor:
        """Random starts in the ball of radius 1, depending only on each text's key, not on batching or padding.

        Uniform in the box for `linf`. Uniform on the sphere for `l2`, where almost all volume of a high-dimensional ball is.

        Args:
            keys: one per text.
            mask: (B, L, 1), 1 on real tokens.
            width: H.

        Returns:
            (B, L, H) fp32.
        """
        if self.norm == "linf":
            return drawn(keys, mask, width, lambda shape, source: torch.rand(shape, generator=source) * 2 - 1)
        return drawn(keys, mask, width, lambda shape, source: self._unit(torch.randn(shape, generator=source)))

    def surface(self, keys: Keys, mask: Tensor, width: int) -> Tensor:
        """Like `start`, but as large as the ball allows: corners of the box for `linf`."""
        if self.norm == "linf":
            return drawn(keys, mask, width, random_signs)
        return self.start(keys, mask, width)

    def _unit(self, x: Tensor) -> Tensor:
        return normalise(self._vectors(x), "l2").view_as(x)

    def _vectors(self, x: Tensor) -> Tensor:
        """What has a norm of its own in the rows: the examples, or (B L, 1, H) the tokens."""
        return x if self.of == "example" else x.reshape(-1, 1, x.shape[-1])


def random_signs(shape: tuple[int, ...], source: Generator) -> Tensor:
    """Independent entries of -1 and 1."""
    return torch.randint(2, shape, generator=source).float() * 2 - 1


def drawn(keys: Keys, mask: Tensor, width: int, draw: Callable[[tuple[int, ...], Generator], Tensor]) -> Tensor:
    """Random numbers for the real tokens of each text, zero elsewhere; (B, L, H) fp32, on the device of `mask`.

    Args:
        keys: one per text.
        mask: (B, L, 1).
        width: H.
        draw: given (1, real tokens, H) and the generator of a text's key.
    """
    found = torch.zeros(*mask.shape[:2], width)
    for row, (key, real) in enumerate(zip(keys, mask.squeeze(-1).bool().cpu(), strict=True)):
        if real.any():  # else a choice that a question lacks
            # Drawn on the CPU, whose random numbers are the same on every machine.
            found[row, real] = draw((1, int(real.sum()), width), generator(torch.device("cpu"), *key))[0]
    return found.to(mask.device)
