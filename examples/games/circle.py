"""The step from Algorithm 1 to Algorithm 2 of MAT, on a continuous game: Langevin samples in place of densities.

Both players name an angle, x and y; with u = e^{ix} and v = e^{iy} the first pays the second

    f = cos(x - y) + cos(x) / 2 + sin(y) / 2 = <u, v> + <p, u> + <q, v>,

so the second wants to meet the first, who wants to be elsewhere, and each has a side he likes. No pair of angles is an
equilibrium; the equilibria are the mixtures with E u = -q and E v = -p, inside the circle. f is linear in u and v, so here
the average of a player's samples stands for all of his mixture. In a network that holds to first order only.
"""

from __future__ import annotations

import numpy as np

from examples.games.finite import Array, Game, Pair

P, Q = 0.5 + 0j, 0.5j
EQUILIBRIUM = np.array(-Q), np.array(-P)

ANGLES = np.linspace(-np.pi, np.pi, 64, endpoint=False)
_X, _Y = ANGLES[:, None], ANGLES[None, :]
GRID = Game(np.cos(_X - _Y) + np.cos(_X) / 2 + np.sin(_Y) / 2, *np.full((2, 64), 1 / 64))


def exploitability(u: Array, v: Array) -> Array:
    """The duality gap, among all angles, of mixtures with the averages u and v, shapes (...), complex."""
    return abs(u + Q) + abs(v + P) + (P * u.conj() - Q * v.conj()).real


def mirror_descent(iterations: int) -> Pair:
    """Algorithm 1 on a grid of angles, the best of them within 0.002 of the best of all: E u and E v at each step, (T,)."""
    xs, ys = GRID.mirror_descent(iterations)
    return xs @ np.exp(1j * ANGLES), ys @ np.exp(1j * ANGLES)


def gradient_play(iterations: int, gamma: float = 0.2) -> Pair:
    """Pure strategies, each climbing his own gain: the points u and v played, shapes (T,), on the circle."""
    angles, points = np.array([[1.0], [2.0]]), np.empty((2, iterations), complex)
    for t in range(iterations):
        points[:, t] = np.exp(1j * angles[:, 0])
        angles = angles + gamma * _slopes(angles, points[:, t])
    return points[0], points[1]


def langevin_play(iterations: int, seed: int = 0, inner: int = 20, chains: int = 16, gamma: float = 0.3) -> Pair:
    """Algorithm 2 with exact gradients, `inner` Langevin steps at a time: the means of all `chains`, shapes (T,), in the disc.

    After t steps mirror descent plays the density exp(eta t gain), the gain being that against the other's average so far.
    The update angle + gamma slope + sqrt(2 gamma) epsilon xi samples it where epsilon^2 = 1 / (eta t). The colder that
    gets, the slower the chain: with `inner` fixed, samples fall ever further behind the exact densities.
    """
    rng, eta = np.random.default_rng(seed), GRID.step_size(iterations)
    angles, points = rng.uniform(-np.pi, np.pi, (2, chains)), np.empty((2, iterations), complex)
    averages = np.zeros(2, complex)
    for t in range(iterations):
        points[:, t] = np.exp(1j * angles).mean(1)
        averages += (points[:, t] - averages) / (t + 1)
        for xi in rng.standard_normal((inner, 2, chains)):
            angles = angles + gamma * _slopes(angles, averages) + np.sqrt(2 * gamma / (eta * (t + 1))) * xi
    return points[0], points[1]


def _slopes(angles: Array, points: Array) -> Array:
    """Of each player's gain in his angle, shape (2, ...), when the players stand for `points`, shape (2,)."""
    pulls = np.stack([-(points[1] + P), points[0] + Q])
    return (1j * np.exp(1j * angles) * pulls.conj()[:, None]).real
