"""Algorithm 1 of MAT (Zhong, Chen and Wang, 2023) on finite games: entropic mirror descent with averaged iterates.

A game is a payoff matrix A of shape (n, m). The row player mixes with x, the column player with y, and the row player
pays x^T A y: x minimises and y maximises, as theta and delta do. Mirror descent with the entropy as its mirror map
multiplies each probability by the exponential of its gain and normalises:

    x_{t+1} ∝ x_t exp(-eta A y_t)        y_{t+1} ∝ y_t exp(eta A^T x_t)

What converges is the average of the iterates. The iterates themselves circle the equilibrium and drift outwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Game:
    """A payoff matrix, shape (n, m), and where mixed play starts: x_1, shape (n,), and y_1, shape (m,), all positive."""

    payoff: Array
    x: Array
    y: Array

    def exploitability(self, x: Array, y: Array) -> Array:
        """The duality gap, shapes (..., n) and (..., m) to (...): what the best answers to x and y would win."""
        return (x @ self.payoff).max(-1) - (y @ self.payoff.T).min(-1)

    def bound(self, iterations: int) -> float:
        """What the exploitability of the averages cannot exceed after T iterations: span sqrt(D / T).

        D is the largest KL(x* || x_1) + KL(y* || y_1) an equilibrium can have. The players' regrets add up to at most
        D / eta + T eta span^2 / 4 by Hoeffding's lemma (Cesa-Bianchi and Lugosi, 2006, theorem 2.2); `step_size` is the
        eta for which that is least.
        """
        divergence = -np.log(self.x.min()) - np.log(self.y.min())
        return float(np.ptp(self.payoff) * np.sqrt(divergence / iterations))

    def step_size(self, iterations: int) -> float:
        """2 sqrt(D / T) / span; any will do if all payoffs are alike."""
        return 2 * self.bound(iterations) / (float(np.ptp(self.payoff)) ** 2 or 1.0)

    def mirror_descent(self, iterations: int) -> Pair:
        """Algorithm 1 without its last line, the average: the strategies played, shapes (T, n) and (T, m)."""
        eta = self.step_size(iterations)
        xs, ys = np.empty((iterations, len(self.x))), np.empty((iterations, len(self.y)))
        log_x, log_y = np.log(self.x), np.log(self.y)
        for t in range(iterations):
            xs[t], ys[t] = _softmax(log_x), _softmax(log_y)
            log_x, log_y = log_x - eta * (self.payoff @ ys[t]), log_y + eta * (xs[t] @ self.payoff)
        return xs, ys

    def best_responses(self, iterations: int) -> Pair:
        """Pure strategies, each the best answer to the other's last one: one-hot, shapes as above."""
        xs, ys = np.zeros((iterations, len(self.x))), np.zeros((iterations, len(self.y)))
        row = column = 0
        for t in range(iterations):
            xs[t, row], ys[t, column] = 1, 1
            row, column = int(self.payoff[:, column].argmin()), int(self.payoff[row].argmax())
        return xs, ys


def _softmax(logits: Array) -> Array:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


# Figure 1 of the paper. Its equilibrium is (1/3, 1/3, 1/3) twice.
ROCK_PAPER_SCISSORS = Game(
    np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]]), np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
)
# How often penalty kicks score; the goalkeeper (rows) dives, the kicker (columns) shoots left or right (Palacios-Huerta,
# "Professionals play minimax", 2003, rounded). The equilibrium is (5/12, 7/12) and (23/60, 37/60).
PENALTY_KICK = Game(np.array([[0.58, 0.93], [0.95, 0.70]]), np.array([0.85, 0.15]), np.array([0.85, 0.15]))
