"""SALT: Stackelberg adversarial regularisation (Zuo et al. 2021), with one ascent step.

    min over theta of F(theta) = E[ L(theta) + lam l_v(x, delta_1(theta), theta) ]
    delta_1(theta) = Pi[ delta_0 + eta N(g_0(theta)) ],   g_0 = d l_v / d delta at delta_0

l_v is the divergence of the clean and the perturbed prediction. The parameters theta are the leader of a Stackelberg game, the
perturbation is the follower. The leader's gradient includes how the follower's step depends on theta (eq. 6):

    dF = dL + lam [ d_theta l_v + (d delta_1 / d theta)^T d_delta l_v ]

Both predictions in l_v depend on theta.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mat_ds.errors import Problem
from mat_ds.methods import ops
from mat_ds.methods.base import Engine, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import Serves
from mat_ds.methods.smoothness import SmoothnessSettings, first_delta

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves

# Relative rounding error of a gradient in fp32.
ROUNDING = 1.2e-7


class SALTSettings(SmoothnessSettings):
    name: Literal["salt"] = Field("salt", description="Stackelberg adversarial regularisation")
    delta_gradient: Literal["linf", "l2", "raw"] = Field(
        "linf", description="N: norm that each sample's gradient is divided by; raw: none"
    )
    delta_projection: Literal["rescale", "clamp", "l2"] = Field(
        "clamp", description="Pi: cut each entry, or shrink the whole sample to the Linf or the l2 radius"
    )
    follower: Literal["joint", "released"] = Field(
        "joint",
        description="what the leader foresees of the follower's payoff: joint: all of it, which makes the step one on "
        "F; released: its clean prediction as a constant, as in the authors' code",
    )
    derivative: Literal["auto", "exact", "finite_difference"] = Field(
        "auto",
        description="of the follower's step; auto: exact (second-order graphs) where the engine can, else finite differences",
    )

    @property
    def radius_powers(self) -> Mapping[str, float]:
        # The gradient of R grows with delta, so that raw steps keep their share of it.
        return {**super().radius_powers, **({"delta_lr": 0.0} if self.delta_gradient == "raw" else {})}

    @property
    def variant(self) -> str:
        return f"through the follower's step by {self.derivative.replace('_', ' ')}"

    def settled(self, serves: Serves) -> SALTSettings:
        if self.derivative != "auto":
            return self
        return self.model_copy(update={"derivative": "finite_difference" if serves.no_second_order else "exact"})

    def engine_problems(self, serves: Serves) -> Iterator[Problem]:
        if self.derivative == "exact" and serves.no_second_order:
            yield Problem(
                "method.derivative", "exact", serves.no_second_order, "take method.derivative=finite_difference, or auto"
            )
        if serves.half_precision:
            yield Problem(
                "method.name",
                "salt",
                "the derivative of the follower's step drowns in half precision's rounding",
                "take a ds_config without fp16 and bf16, or another method",
            )


class SALT(Method):
    """One update on F. l_v is the divergence R of the other methods, which is twice that of the released code.

    `follower: released` treats the clean prediction in g_0 as a constant, as the authors' code does. With more than two
    classes, or with a gradient that is not normalised, the result is not the gradient of any function.

    `derivative: finite_difference` builds no second-order graph. With v = J^T d_delta l_v(delta_1), where J is the Jacobian of
    eta N and Pi at g_0, the last term of dF is, for each sample and with the dropout masks of g_0,

        [ d_theta l_v(delta_0 + xi v) - d_theta l_v(delta_0 - xi v) ] / (2 xi)

    Its rounding error grows as 1 / ||xi v||. Its truncation error grows as ||xi v||^2 / ||delta_0||, because l_v is quadratic
    around its minimum. xi is chosen so that both are about equal.
    """

    Settings = SALTSettings
    settings: SALTSettings
    clean_masks, follower_masks = ("theta",), ("delta",)

    @property
    def cost(self) -> int:
        if self.settings.derivative == "exact":
            return 12
        return 17 if self._joint else 14

    @property
    def _joint(self) -> bool:
        return self.settings.follower == "joint"

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        clean = engine.probe(batch, self.clean_masks)
        start, gradient = self._gradient(engine, batch, clean, differentiable=False)
        if moves:
            moves.add(start, self._step(gradient))
        return self._answer(start, gradient)

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        means = Means()
        lead = self._exact if self.settings.derivative == "exact" else self._finite_difference
        for _ in engine.inner_steps():
            for batch in batches:
                lead(engine, batch, means)
            engine.update()
        return means()

    def _exact(self, engine: Engine, batch: MicroBatch, means: Means) -> None:
        clean = engine.forward(batch, self.clean_masks)
        start, gradient = self._gradient(engine, batch, clean, differentiable=True)
        loss = self._payoff(engine, batch, clean, self._answer(start, gradient), means)
        engine.backward(loss)

    def _finite_difference(self, engine: Engine, batch: MicroBatch, means: Means) -> None:
        from torch import autograd

        clean = engine.forward(batch, self.clean_masks)
        start, gradient = self._gradient(engine, batch, clean.detach(), differentiable=False)
        gradient.requires_grad_()
        answer = self._answer(start, gradient)
        delta = answer.detach().requires_grad_()
        slope = engine.backward(self._payoff(engine, batch, clean, delta, means), delta)
        (v,) = autograd.grad(answer, gradient, slope)
        # One difference for each sample: of all its texts at once, since its payoff depends on all of them.
        whole = ops.by_sample(v, len(batch.labels))
        length, distance = ops.l2(whole), (ROUNDING * ops.l2(ops.by_sample(start, len(batch.labels)))) ** (1 / 3)
        shift = (distance * ops.divide(whole, length)).view_as(v)
        # The first pass's graph has been freed by its backward pass, so the clean prediction is computed again.
        clean = engine.forward(batch, self.clean_masks) if self._joint else clean
        above, below = (
            self._follower_payoff(clean, engine.forward(batch, self.follower_masks, start + sign * shift), batch)
            for sign in (1, -1)
        )
        engine.backward(((above - below) * ops.divide(length, 2 * distance).view(-1)).sum())

    def _gradient(self, engine: Engine, batch: MicroBatch, clean: Tensor, differentiable: bool) -> tuple[Tensor, Tensor]:
        """delta_0 and g_0, each (B, L, H)."""
        start = first_delta(engine, batch, self.settings)
        payoff = partial(self._follower_payoff, clean, batch=batch)
        return start, engine.delta_gradient(batch, self.follower_masks, start, payoff, differentiable) * batch.mask

    def _answer(self, start: Tensor, gradient: Tensor) -> Tensor:
        """delta_1 = Pi[delta_0 + eta N(g_0)], (B, L, H)."""
        s = self.settings
        return ops.project(start + self._step(gradient), s.delta_max_norm, s.delta_projection)

    def _step(self, gradient: Tensor) -> Tensor:
        """eta N(g_0), (B, L, H)."""
        return self.settings.delta_lr * ops.normalise(gradient, self.settings.delta_gradient)

    def _follower_payoff(self, clean: Tensor, perturbed: Tensor, batch: MicroBatch) -> Tensor:
        """l_v as the follower's gradient sees it, (B,); with `follower: released` the clean prediction is a constant."""
        return self.objective.divergence(clean if self._joint else clean.detach(), perturbed, batch)

    def _payoff(self, engine: Engine, batch: MicroBatch, clean: Tensor, delta: Tensor, means: Means) -> Tensor:
        perturbed = engine.forward(batch, ("theta", "perturbed"), delta)
        task, r = self.objective.loss(clean, batch), self.objective.divergence(clean, perturbed, batch).mean()
        loss = task + self.settings.lam * r
        means.add(loss=loss, L=task, R=r)
        return loss
