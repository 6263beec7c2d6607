"""MAT: mixed-strategy adversarial training (Zhong, Chen and Wang 2023, Algorithm 2).

The parameters theta and the perturbation delta of the word embeddings play a zero-sum game with payoff
L(theta) + lam R(theta, delta), where R is the divergence between the clean and the perturbed prediction. Each player has a
distribution instead of a point. It is sampled by stochastic gradient Langevin dynamics, and the moving average of the samples
stands for it:

    delta^(k+1) = Pi[ delta^(k) + gamma grad_delta lam R + sqrt(2 gamma) epsilon xi ]             (lines 2 to 7)
    theta^(k+1) = theta^(k) - gamma P(grad_theta [L + lam R]) + sqrt(2 gamma) epsilon xi          (lines 8 to 11)
    theta_{t+1} = beta_p theta_t + (1 - beta_p) theta-bar, theta-bar the average of the samples   (line 12)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mat_ds.config.section import Count, Fraction, Positive, Weight
from mat_ds.errors import Problem
from mat_ds.methods import ops
from mat_ds.methods.base import Engine, Masks, Means, Method
from mat_ds.methods.batch import MicroBatch
from mat_ds.methods.settings import AdversarialSettings, ChainedSettings, Divergence
from mat_ds.sampling.chain import Chain

if TYPE_CHECKING:
    from torch import Tensor

    from mat_ds.methods.moves import Moves


class MatSettings(ChainedSettings, AdversarialSettings):
    name: Literal["mat"] = Field("mat", description="mixed-strategy adversarial training")
    delta_steps: Annotated[int, Field(ge=0)] = Field(
        5, description="K of the perturbation: samples of delta per batch; 0: its first sample is its last"
    )
    theta_steps: Count = Field(10, description="K of the parameters: samples of theta per batch")
    delta_lr: Weight = Field(1e-3, description="step size gamma of the perturbation; not scheduled")
    delta_noise: Weight = Field(2e-4, description="epsilon of the perturbation's noise sqrt(2 gamma) epsilon xi")
    theta_noise: Weight = Field(2e-6, description="epsilon of the parameters' noise sqrt(2 lr) epsilon xi")
    lam: Weight = Field(1.0, description="weight lambda of the divergence R; 0 makes no perturbed pass")
    beta_s: Fraction = Field(0.3, description="decay of the moving averages of the samples (lines 4 and 10)")
    delta_beta: Fraction | None = Field(
        None, description="that of the perturbation alone (line 4), 0 making it a pure strategy: its last sample; null: beta_s"
    )
    theta_beta: Fraction | None = Field(
        None, description="that of the parameters alone (line 10), pure if beta_p is 0 too; null: beta_s"
    )
    beta_p: Fraction = Field(0.3, description="weight of theta_t in theta_{t+1} (line 12)")
    delta_init: Literal["normal", "uniform", "zero", "constant"] = Field(
        "normal", description="first sample of delta, times delta_init_scale; constant: the scale in every entry"
    )
    delta_init_scale: Weight = Field(1e-5, description="size of the first sample")
    delta_max_norm: Positive = Field(1e-5, description="bound on the Linf norm of each sample's delta, over its real tokens")
    delta_projection: Literal["rescale", "clamp"] = Field(
        "rescale", description="how the bound is met: shrink the whole sample, or cut each entry"
    )
    delta_gradient: Literal["linf", "l2", "sign", "raw"] = Field(
        "linf",
        description="norm that each sample's gradient is divided by; sign: its signs alone; raw: none, and lam multiplies it",
    )
    delta_direction: Literal["adversary", "random"] = Field(
        "adversary",
        description="random: in place of each perturbation that was found, noise of the same norm; a control, at the same cost",
    )
    dropout: Literal["independent", "frozen", "off"] = Field(
        "independent", description="masks in the perturbation's loop: fresh in every pass, one set, none"
    )
    theta_dropout: Literal["independent", "frozen"] = Field(
        "independent", description="masks of R's two passes in the parameters' loop: their own, or shared"
    )
    semantics: Literal["paper", "released"] = Field(
        "paper",
        description="paper: Algorithm 2, but for what the adversary's loop takes from the released code (normalised "
        "gradient, its own step size, theta_t); released: the authors' code as it runs",
    )

    @property
    def divergence(self) -> Divergence | None:
        return Divergence("lam", self.lam, self.theta_dropout == "frozen") if self.lam else None

    @property
    def separate_passes(self) -> bool:
        return bool(self.lam and self.delta_steps)

    @property
    def radius_powers(self) -> Mapping[str, float]:
        # The noise sqrt(2 gamma) epsilon xi grows with the radius too. A raw gradient grows with delta, and so do its steps.
        if not self.lam:
            return {}
        raw = self.delta_gradient == "raw"
        start = {"delta_max_norm": 1.0, "delta_init_scale": 1.0}
        return {**start, "delta_lr": 0.0 if raw else 1.0, "delta_noise": 1.0 if raw else 0.5}

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        starts_at_zero = self.delta_init == "zero" or self.delta_init_scale == 0
        if self.lam and self.delta_steps and starts_at_zero and self.dropout != "independent":
            yield Problem(
                "method.delta_init",
                self.delta_init,
                f"R has no gradient at delta = 0, so with dropout {self.dropout} the perturbation could never move",
                "take method.delta_init=normal with a positive delta_init_scale, or method.dropout=independent",
            )


class Mat(Method):
    """Algorithm 2. The sampler averages the parameters (lines 10 and 12) in its last update of an outer step.

    `semantics: paper` differs from the printed algorithm in three points, as the authors' code does. The gradient of delta is
    divided by its sample's Linf norm, so that lambda has no effect on it (`delta_gradient: raw` keeps both). Each player has
    its own K and gamma, and line 12 its own beta, where the paper has one of each. Line 4 takes the gradient at theta_t, where
    the paper writes the average theta-bar_t. With the published settings the noise is small: about a tenth of the
    perturbation's step and two thousandths of the parameters' (`delta_noise_ratio` and `theta_noise_ratio` in telemetry).

    `semantics: released` is what the authors' code does when it runs. Line 12 averages with theta after the first update
    instead of theta_t, because their saved copy shares memory with the live parameters. The first delta is not projected, and
    later ones are projected before their noise is added. All steps of the perturbation share one clean pass.
    """

    Settings = MatSettings
    settings: MatSettings

    @property
    def chain(self) -> Chain:
        s = self.settings
        anchor: Literal["start", "first_update"] = "start" if s.semantics == "paper" else "first_update"
        return Chain(s.theta_steps, _given(s.theta_beta, s.beta_s), s.beta_p, s.theta_noise, anchor)

    @property
    def cost(self) -> int:
        s = self.settings
        if not s.lam:
            return 3 * self.chain.samples
        clean_passes = s.delta_steps if self._fresh_clean_pass else min(1, s.delta_steps)
        return clean_passes + 2 * s.delta_steps + 6 * self.chain.samples

    @property
    def _fresh_clean_pass(self) -> bool:
        return self.settings.semantics == "paper" and self.settings.dropout == "independent"

    def step(self, engine: Engine, batches: Sequence[MicroBatch]) -> dict[str, Tensor]:
        s, means = self.settings, Means()
        deltas = [self.mean_delta(engine, batch) if s.lam else None for batch in batches]  # lines 2 to 7
        for k in engine.inner_steps():  # lines 8 to 12
            for batch, delta in zip(batches, deltas, strict=True):
                loss = self._loss(engine, batch, delta, ("theta", k), means)
                engine.backward(loss)
            engine.update()
        return means()

    def _loss(self, engine: Engine, batch: MicroBatch, delta: Tensor | None, masks: Masks, means: Means) -> Tensor:
        """L(theta) + lam R(theta, delta), mean over the micro-batch."""
        if delta is None:
            loss = task = self.objective.loss(engine.forward(batch, masks), batch)
        else:
            shared = self.settings.theta_dropout == "frozen"
            clean, perturbed = engine.forward_pair(batch, delta, masks, share_masks=shared)
            task, r = self.objective.loss(clean, batch), self.objective.divergence(clean, perturbed, batch).mean()
            loss = task + self.settings.lam * r
            means.add(R=r)
        means.add(loss=loss, L=task)
        return loss

    def adversary(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor | None:
        return self.mean_delta(engine, batch, moves) if self.settings.lam else None

    def mean_delta(self, engine: Engine, batch: MicroBatch, moves: Moves | None = None) -> Tensor:
        """The moving average of K samples of delta at theta_t (lines 2 to 7): (B, L, H), zero on padding."""
        s = self.settings
        beta, delta = _given(s.delta_beta, s.beta_s), self._first_sample(engine, batch)
        mean, clean = delta, None
        for k in range(s.delta_steps):
            if clean is None or self._fresh_clean_pass:
                clean = engine.probe(batch, self._masks("clean", k))
            payoff = partial(self.objective.divergence, clean, batch=batch)
            gradient = engine.delta_gradient(batch, self._masks("perturbed", k), delta, payoff) * batch.mask
            if s.delta_gradient == "raw":
                gradient = s.lam * gradient
            step = s.delta_lr * ops.normalise(gradient, s.delta_gradient)
            delta = self._next_sample(delta, step, engine, batch, k, moves)
            mean = beta * mean + (1 - beta) * delta
        if s.delta_direction == "random":
            drawn = engine.normal(batch, "random direction") * batch.mask
            return ops.l2(mean) * ops.divide(drawn, ops.l2(drawn))
        return mean

    def _first_sample(self, engine: Engine, batch: MicroBatch) -> Tensor:
        s = self.settings
        drawn = engine.uniform(batch, "delta init") if s.delta_init == "uniform" else engine.normal(batch, "delta init")
        start = {"zero": drawn.new_zeros(drawn.shape), "constant": drawn.new_ones(drawn.shape)}.get(s.delta_init, drawn)
        delta = s.delta_init_scale * start * batch.mask
        return delta if s.semantics == "released" else ops.project(delta, s.delta_max_norm, s.delta_projection)

    def _next_sample(
        self, delta: Tensor, step: Tensor, engine: Engine, batch: MicroBatch, k: int, moves: Moves | None
    ) -> Tensor:
        """Adds the step and the noise to delta, and projects the sum; `released` projects before it adds the noise."""
        s = self.settings
        scale = (2 * s.delta_lr) ** 0.5 * s.delta_noise
        noise = scale * engine.normal(batch, "delta", k) * batch.mask if scale else 0.0
        ascended = delta + step
        if s.semantics == "released":
            bounded = ops.project(ascended, s.delta_max_norm, s.delta_projection)
            if moves:
                moves.add(delta, step, noise, kept=ops.divide(ops.l2(bounded), ops.l2(ascended)))
            return bounded + noise
        if moves:
            moves.add(delta, step, noise)
        return ops.project(ascended + noise, s.delta_max_norm, s.delta_projection)

    def _masks(self, kind: str, k: int) -> Masks:
        """Dropout masks of a pass in the perturbation's loop."""
        return {"independent": ("delta", kind, k), "frozen": ("delta",), "off": None}[self.settings.dropout]


def _given(own: float | None, common: float) -> float:
    return common if own is None else own
