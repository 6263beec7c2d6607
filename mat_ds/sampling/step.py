"""What a kernel of `step_kernel` does in a pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What a pass does to theta, its moments m and v, and the mixture.

    Attributes:
        rate, decay, beta_1, beta_2, root, eps: m += (1 - beta_1) (g - m), v += (1 - beta_2) (g^2 - v), and
            theta = decay theta - rate m / (sqrt(v) / root + eps).
        drift: whether to do that.
        scale: of the noise, which is added then; 0 for none.
        key, place: of the noise.
        anchor, weight: the mixture is `anchor` times theta if it starts here, and `weight` times theta is added to it.
        mixed: whether to do that.
        start: 0: the mixture has been started; 1: it is by theta before the drift; 2: after it.
        last: whether the mixture takes theta's place at the end.
    """

    rate: float
    decay: float
    beta_1: float
    beta_2: float
    root: float
    eps: float
    drift: bool
    scale: float
    key: int
    place: int
    anchor: float
    weight: float
    mixed: bool
    start: int
    last: bool
