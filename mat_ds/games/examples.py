"""Three games, each played with mixed and with pure strategies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mat_ds.games import circle, finite
from mat_ds.games.finite import Array

# What the row player pays for (rock, paper, scissors) against the column player's.
ROCK_PAPER_SCISSORS = np.array([[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
# Scoring probabilities of penalty kicks; the goalkeeper (rows) dives, the kicker (columns) shoots left or right
# (Palacios-Huerta, "Professionals play minimax", Review of Economic Studies 70, 2003).
PENALTY_KICK = np.array([[0.5830, 0.9291], [0.9497, 0.6992]])

ANGLES = np.linspace(-np.pi, np.pi, 64, endpoint=False)
GRADIENT_STEP = 0.2

Path = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Example:
    """One game, played for T iterations by several kinds of players.

    Attributes:
        name: of the game.
        iterates: the strategies of both players at each step, shapes (T, ...), by kind of player.
        averages: their running averages.
        exploitability: a pair by kind of player: of the iterates and of the averages, shapes (T,).
        bound: what theory allows Algorithm 1's averages, those of `exact` play where `mixed` is sampled, shape (T,).
        equilibrium: of both players, each as an average is given.
    """

    name: str
    iterates: dict[str, Path]
    averages: dict[str, Path]
    exploitability: dict[str, tuple[Array, Array]]
    bound: Array
    equilibrium: Path


def rock_paper_scissors(iterations: int) -> Example:
    """Figure 1 of the paper: the averages of mixed play go to (1/3, 1/3, 1/3) while its iterates spiral away from it.

    The average of the cycle of best responses gets there too, by symmetry alone; `penalty_kick` has no such symmetry.
    """
    x, y = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.5, 0.3])
    return _finite("Rock-paper-scissors", ROCK_PAPER_SCISSORS, x, y, (finite.uniform(3), finite.uniform(3)), iterations)


def penalty_kick(iterations: int) -> Example:
    """An equilibrium off the centre: best responses in pure strategies cycle, and their average is not the equilibrium."""
    (a, b), (c, d) = PENALTY_KICK
    equilibrium = np.array([d - c, a - b]) / (a - b - c + d), np.array([d - b, a - c]) / (a - b - c + d)
    x, y = np.array([0.85, 0.15]), np.array([0.85, 0.15])
    return _finite("Penalty kick", PENALTY_KICK, x, y, equilibrium, iterations)


def angles(iterations: int, seed: int = 0) -> Example:
    """The game of `circle.py`: Langevin samples follow the exact densities, gradient descent-ascent runs round the circle."""
    eta = circle.step_size(iterations)
    start, points = finite.uniform(len(ANGLES)), np.exp(1j * ANGLES)
    exact = finite.mirror_descent(circle.payoff_matrix(ANGLES), start, start, eta, iterations)
    return _example(
        "Game of angles", circle.exploitability, circle.bound(eta, _steps(iterations)),
        (np.array(-circle.Q), np.array(-circle.P)),
        mixed=circle.langevin_play(eta, iterations, seed),
        exact=(exact[0] @ points, exact[1] @ points),
        pure=circle.gradient_play(1.0, 2.0, GRADIENT_STEP, iterations),
    )  # fmt: skip


def _finite(name: str, payoff: Array, x: Array, y: Array, equilibrium: Path, iterations: int) -> Example:
    span, divergence = float(np.ptp(payoff)), finite.divergence(x, y)
    eta = finite.step_size(span, divergence, iterations)
    return _example(
        name, lambda x, y: finite.exploitability(payoff, x, y),
        finite.bound(span, divergence, eta, _steps(iterations)), equilibrium,
        mixed=finite.mirror_descent(payoff, x, y, eta, iterations),
        pure=finite.best_responses(payoff, 0, 0, iterations),
    )  # fmt: skip


def _example(name: str, gap: Callable[..., Array], bound: Array, equilibrium: Path, **iterates: Path) -> Example:
    averages = {kind: (finite.running_average(x), finite.running_average(y)) for kind, (x, y) in iterates.items()}
    gaps = {kind: (gap(*iterates[kind]), gap(*averages[kind])) for kind in iterates}
    return Example(name, iterates, averages, gaps, bound, equilibrium)


def _steps(iterations: int) -> Array:
    return np.arange(1.0, iterations + 1)
