"""How a run changes a kind's loss: smoothing of labels, focal loss, weights of classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device


@dataclass(frozen=True)
class LossForm:
    """What a kind makes of its loss in training; with the defaults, the loss itself.

    Attributes:
        smoothing: epsilon of label smoothing (Szegedy et al. 2016, section 7).
        gamma: focusing parameter of the focal loss (Lin et al. 2017, equation 4).
        class_weights: of each of C classes; None: all 1.
    """

    smoothing: float = 0.0
    gamma: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def cross_entropy(self, logits: Tensor, targets: Tensor, among: Tensor | None = None) -> Tensor:
        """The sum of `terms`, (..., C) -> (...). For a label that is certain and without smoothing it is Lin's focal loss."""
        return self.terms(logits, targets, among).sum(-1)

    def terms(self, logits: Tensor, targets: Tensor, among: Tensor | None = None) -> Tensor:
        """-q_c (1 - p_c)^gamma log p_c with q = (1 - epsilon) targets + epsilon / C, in fp32: (..., C).

        Args:
            logits: log p up to a constant, (..., C).
            targets: probabilities, (..., C).
            among: 1 for the classes that there are, of which C is then the number, else 0, (..., C); None: all.
        """
        import torch

        log_p = logits.float().log_softmax(-1)
        even = 1 / logits.shape[-1] if among is None else among / among.sum(-1, keepdim=True)
        q = (1 - self.smoothing) * targets + self.smoothing * even
        if self.gamma:
            # Not 0, where a power below 1 has no derivative.
            q = q * (-log_p.expm1()).clamp(min=torch.finfo(torch.float32).tiny) ** self.gamma
        return -q * log_p

    def weights(self, targets: Tensor) -> Tensor | float:
        """The weight that the classes give to each target: sum_c targets_c class_weights_c, (..., C) -> (...)."""
        return 1.0 if self.class_weights is None else targets @ self.weights_on(targets)

    def weights_on(self, like: Tensor) -> Tensor:
        """`class_weights`, or ones, on the device of a tensor whose last dimension they have: (C,) in fp32."""
        return _on_device(self.class_weights or (1.0,) * like.shape[-1], like.device)


@lru_cache(maxsize=16)
def _on_device(values: tuple[float, ...], device: device) -> Tensor:
    """The values in fp32. Copied to a GPU once, as that waits for all that the GPU has to do before."""
    import torch

    return torch.tensor(values, device=device)
