"""Running averages of the parameters over outer steps, kept beside the mixture."""

from __future__ import annotations

from dataclasses import dataclass

# The fraction of a run in which `early_decay` applies (SMART, Jiang et al. 2020, section 4.1).
EARLY = 0.1


@dataclass(frozen=True)
class Average:
    """Running average m_{t+1} = m_t + w_t (theta_{t+1} - m_t), with m_0 = theta_0.

    Attributes:
        decay: 1 - w_t of an exponential average; None for the uniform average of theta_1 .. theta_T, w_t = 1 / (t + 1), which
            MAT's Algorithm 1 returns.
        early_decay: replaces `decay` in the first tenth of the run.
    """

    decay: float | None
    early_decay: float | None = None

    def weight(self, outer_step: int, done: float) -> float:
        """w_t.

        Args:
            outer_step: t, counted from 0.
            done: fraction of the run's outer steps before this one.
        """
        if self.decay is None:
            return 1 / (outer_step + 1)
        early = self.early_decay is not None and done < EARLY
        return 1 - (self.early_decay if early and self.early_decay is not None else self.decay)
