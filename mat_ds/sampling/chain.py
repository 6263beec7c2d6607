"""`Chain`: number of samples, mixture weights and noise of the parameters' player."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from mat_ds.sampling.average import Average

if TYPE_CHECKING:
    from mat_ds.sampling.ascent import Ascent


@dataclass(frozen=True)
class Chain:
    """One outer step of the parameters' chain (MAT, Algorithm 2, lines 8 to 12).

    With K samples theta^(2) .. theta^(K+1) drawn from theta_t, lines 10 and 12 fold into one weighted sum:
        theta_{t+1} = c_0 theta_t + sum_k c_k theta^(k+1),
        c_0 = beta_p + (1 - beta_p) beta_s^K,  c_k = (1 - beta_p) (1 - beta_s) beta_s^(K-k)
    so one buffer beside the parameters holds both moving averages.

    Attributes:
        samples: K.
        beta_s: decay of the moving average of the samples (line 10).
        beta_p: weight of theta_t in the average that ends the step (line 12).
        noise: epsilon of the Langevin noise sqrt(2 gamma) epsilon xi; 0 for none.
        anchor: what stands for theta_t in the mixture. `start`: theta_t, as in the paper. `first_update`: the
            parameters after the first update and before its noise, as the authors' code does by aliasing.
        averages: running averages of theta_t over outer steps, by name.
        ascent: if given, the first sample climbs from theta_t, and the second descends from theta_t with the gradient found
            there (SAM, AWP).
        preconditioned: whether the noise is scaled by the root of the preconditioner of the drift (pSGLD, Li et al. 2016).
        stages: first outer step, and first one after, of each stretch that has noise; None: all have.
    """

    samples: int = 1
    beta_s: float = 0.0
    beta_p: float = 0.0
    noise: float = 0.0
    anchor: Literal["start", "first_update"] = "start"
    averages: Mapping[str, Average] = field(default_factory=dict)
    ascent: Ascent | None = None
    preconditioned: bool = False
    stages: tuple[tuple[int, int], ...] | None = None

    @property
    def coefficients(self) -> tuple[float, ...]:
        """(c_0, c_1, .., c_K); they sum to one."""
        decays = [self.beta_s ** (self.samples - k) for k in range(self.samples + 1)]
        kept = (1 - self.beta_p) * (1 - self.beta_s)
        return (self.beta_p + (1 - self.beta_p) * decays[0], *(kept * decay for decay in decays[1:]))

    @property
    def is_mixed(self) -> bool:
        """Whether the step ends elsewhere than at its last sample, so that a mixture buffer is needed."""
        return any(coefficient != 0.0 for coefficient in self.coefficients[:-1])

    def beside(self, average: str, decay: float) -> Chain:
        """This chain with an additional running average.

        Args:
            average: `none`, `ema` or `uniform` (`model.average`).
            decay: of `ema`.
        """
        if average == "none":
            return self
        return replace(self, averages={**self.averages, "average": Average(None if average == "uniform" else decay)})

    def at_temperature(self, temperature: float | None, examples: int, stages: tuple[tuple[int, int], ...] | None) -> Chain:
        """This chain with the noise of a temperature T in place of its own; itself if there is none.

        With N examples, the mean loss L and a preconditioner P, theta -= gamma P grad L + sqrt(2 gamma T / N) P^(1/2) xi is a
        Langevin step of size gamma / N for the potential N L at temperature T (Welling and Teh 2011; Li et al. 2016, whose term
        Gamma, the change of P with theta, is left out as in their practice).

        Args:
            temperature: T.
            examples: N.
            stages: as the attribute.
        """
        if temperature is None:
            return self
        return replace(self, noise=(temperature / examples) ** 0.5, preconditioned=True, stages=stages)

    def has_noise(self, outer_step: int) -> bool:
        """Whether the samples of an outer step have noise."""
        return bool(self.noise) and (self.stages is None or any(begin <= outer_step < end for begin, end in self.stages))
