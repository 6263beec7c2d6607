"""Algorithm 1 of MAT (Zhong, Chen and Wang, 2023) on finite games: entropic mirror descent with averaged iterates.

A game is a payoff matrix A of shape (n, m). The row player mixes with x, the column player with y, and the row player
pays x^T A y: x minimises and y maximises, as theta and delta do. Mirror descent with the entropy as its mirror map
multiplies each probability by the exponential of its gain and normalises (multiplicative weights, exponentiated gradient):

    x_{t+1} ∝ x_t exp(-eta A y_t)        y_{t+1} ∝ y_t exp(eta A^T x_t)

What converges is the average of the iterates. The iterates themselves circle the equilibrium and drift outwards.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mat_ds.errors import Problem, raise_if_any

Array = NDArray[np.float64]
Iterates = TypeVar("Iterates", NDArray[np.float64], NDArray[np.complex128])


def uniform(n: int) -> Array:
    """The strategy that plays each of `n` actions alike."""
    return np.full(n, 1 / n)


def exploitability(payoff: Array, x: Array, y: Array) -> Array:
    """The duality gap max_y' x^T A y' - min_x' x'^T A y: what the best answers to x and y would win, 0 at an equilibrium.

    Args:
        payoff: A, shape (n, m).
        x: strategies of the row player, shape (..., n).
        y: strategies of the column player, shape (..., m).

    Returns:
        Shape (...).
    """
    return (x @ payoff).max(-1) - (y @ payoff.T).min(-1)


def running_average(iterates: Iterates) -> Iterates:
    """The averages of the first 1, 2, ..., T iterates, shape (T, ...) like `iterates`."""
    return (np.cumsum(iterates, axis=0).T / np.arange(1, len(iterates) + 1)).T


def divergence(x: Array, y: Array) -> float:
    """The largest KL(x* || x) + KL(y* || y) an equilibrium can have; log n + log m from uniform strategies."""
    return float(-np.log(x.min()) - np.log(y.min()))


def step_size(span: float, divergence: float, iterations: int) -> float:
    """The eta with the smallest `bound` after `iterations`: 2 sqrt(divergence / T) / span. Any, if all payoffs are alike."""
    return 2 * float(np.sqrt(divergence / iterations)) / span if span else 1.0


def bound(span: float, divergence: ArrayLike, eta: float, t: ArrayLike) -> Array:
    """What the exploitability of the averages of t iterates cannot exceed: divergence / (eta t) + eta span^2 / 4.

    The sum of both players' regrets by Hoeffding's lemma (Cesa-Bianchi and Lugosi, 2006, theorem 2.2), divided by t. With
    `step_size` it is span sqrt(divergence / T) after T iterations. `span` is the largest payoff minus the smallest.
    """
    return np.asarray(divergence) / (eta * np.asarray(t)) + eta * span**2 / 4


def mirror_descent(payoff: Array, x: Array, y: Array, eta: float, iterations: int) -> tuple[Array, Array]:
    """Algorithm 1 without its last line, the average (`running_average`).

    Args:
        payoff: A, shape (n, m).
        x: where the row player starts, shape (n,), every probability positive: one that is zero stays zero.
        y: where the column player starts, shape (m,), likewise.
        eta: step size.
        iterations: T.

    Returns:
        The strategies played, shapes (T, n) and (T, m), the first of them `x` and `y`.

    Raises:
        UserError: if `payoff` is no matrix of finite numbers, or `x` or `y` no strategy of it.
    """
    _check(payoff, x, y)
    log_x, log_y = np.log(x), np.log(y)
    xs, ys = np.empty((iterations, len(x))), np.empty((iterations, len(y)))
    for t in range(iterations):
        xs[t], ys[t] = _normalised(log_x), _normalised(log_y)
        log_x = log_x - eta * (payoff @ ys[t])
        log_y = log_y + eta * (xs[t] @ payoff)
    return xs, ys


def best_responses(payoff: Array, row: int, column: int, iterations: int) -> tuple[Array, Array]:
    """Two players of pure strategies, each answering the other's last one best; shapes (T, n) and (T, m), one-hot."""
    rows, columns = np.empty(iterations, int), np.empty(iterations, int)
    for t in range(iterations):
        rows[t], columns[t] = row, column
        row, column = int(payoff[:, column].argmin()), int(payoff[row].argmax())
    return np.eye(len(payoff))[rows], np.eye(payoff.shape[1])[columns]


def _normalised(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


def _check(payoff: Array, x: Array, y: Array) -> None:
    problems = []
    if payoff.ndim != 2 or payoff.size == 0 or not np.isfinite(payoff).all():
        problems.append(Problem("payoff", f"shape {payoff.shape}", "is no matrix of finite numbers",
                                "pass a row per action of the player who pays, a column per action of the other"))  # fmt: skip
    for name, start, actions in (("x", x, payoff.shape[:1]), ("y", y, payoff.shape[1:2])):
        if start.shape != actions or not (start > 0).all() or not np.isclose(start.sum(), 1):
            problems.append(Problem(name, start.tolist(), "is no strategy with every probability positive",
                                    f"pass {actions[0] if actions else 'n'} positive numbers that add up to 1"))  # fmt: skip
    raise_if_any(problems)
