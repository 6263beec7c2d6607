"""What is compared: the arms of the experiment as options of `mat-ds train`, and what is tried in tuning them."""

from __future__ import annotations

from typing import NamedTuple


class Trial(NamedTuple):
    """A step size as a multiple of the task's, and whether the weaker weight is taken (`WEAKER`)."""

    multiple: float
    weak: bool = False

    def __str__(self) -> str:
        return f"{self.multiple:g}{'-weak' * self.weak}"


# K = 3 for both players, shared masks, sign ascent within a box of the task's radius; beta as published.
MAT = [
    "method.name=mat", "method.delta_steps=3", "method.theta_steps=3", "method.lam=1", "method.dropout=frozen",
    "method.theta_dropout=frozen", "method.delta_gradient=sign", "method.delta_projection=clamp", "method.delta_noise=2e-3",
]  # fmt: skip
MIXED, PURE = 0.3, 0


def players(delta: float, theta: float) -> list[str]:
    """MAT with decays of the averages of both players; 0 makes one pure."""
    return [*MAT, f"method.delta_beta={delta}", f"method.theta_beta={theta}", f"method.beta_p={theta}"]


BOTH = players(MIXED, MIXED)
# Without a divergence no perturbation is made, and its options have no effect.
ALONE = ["method.name=mat", "method.theta_steps=3", "method.lam=0"]
ARMS: dict[str, list[str]] = {
    "mat_mixed_mixed": BOTH,  # delta, theta
    "mat_pure_mixed": players(PURE, MIXED),
    "mat_mixed_pure": players(MIXED, PURE),
    "mat_pure_pure": players(PURE, PURE),
    "mat_random": [*BOTH, "method.delta_direction=random"],
    # With shared masks R would be exactly 0, so here its passes have masks of their own: R-Drop in the parameters' loop.
    "mat_delta0": [*BOTH, "method.delta_steps=0", "method.delta_init=zero", "method.theta_dropout=independent"],
    "mat_lam0_mixed": [*ALONE, f"method.theta_beta={MIXED}", f"method.beta_p={MIXED}"],
    "mat_lam0_pure": [*ALONE, "method.theta_beta=0", "method.beta_p=0"],
    "vanilla": ["method.name=vanilla"],
    "vanilla_updates": ["method.name=vanilla"],
    "vanilla_average": ["method.name=vanilla", "model.average=ema", "model.average_decay=0.99", "train.export_weights=average"],
    "rdrop": ["method.name=rdrop", "method.alpha=1"],
    "r3f": ["method.name=r3f"],
    "freelb": ["method.name=freelb", "method.delta_steps=3", "method.delta_lr=0.03", "method.delta_init_norm=0.06",
               "method.delta_max_norm=0.1"],
    "sam": ["method.name=sam"],
}  # fmt: skip
# What is added in a trial with a weaker weight or radius; other arms have more step sizes instead.
WEAKER: dict[str, list[str]] = {
    **{arm: ["method.lam=0.1"] for arm in ARMS if arm.startswith("mat_") and "lam0" not in arm},
    "rdrop": ["method.alpha=0.1"],
    "r3f": ["method.lam=0.1"],
    "freelb": ["method.delta_lr=0.01", "method.delta_init_norm=0.02", "method.delta_max_norm=0.033"],
    "sam": ["method.rho=0.015"],
}
# At equal work or less; lam = 0 is no rival but a control.
RIVALS = ("vanilla", "vanilla_updates", "vanilla_average", "rdrop", "r3f", "freelb", "sam")
