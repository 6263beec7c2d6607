"""The step from Algorithm 1 to Algorithm 2 of MAT, on a continuous game: Langevin samples in place of densities.

Both players name an angle; the first pays the second

    f(x, y) = cos(x - y) + cos(x) / 2 + sin(y) / 2,

so the second wants to meet the first, who wants to be elsewhere, and each has a side he likes. With u = e^{ix} and
v = e^{iy} read as points of the plane it is f = <u, v> + <p, u> + <q, v>. No pair of angles is an equilibrium: pure
strategies lie on the circle, and the equilibria are all mixtures with the averages E u = -q and E v = -p, inside. The value
is -<p, q> = 0.

f is linear in u and v, so here the moving average of a player's samples stands for his whole distribution, which is what
Algorithm 2 takes it for. In a network that holds to first order only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mat_ds.games import finite
from mat_ds.games.finite import Array

Points = NDArray[np.complex128]

P, Q = 0.5 + 0j, 0.5j
VALUE = -(P * Q.conjugate()).real
# The largest length of v + p and of u + q; a player's payoff over all angles spans twice that.
REACH = 1.5
SPAN = 2 * REACH


def payoff_matrix(angles: Array) -> Array:
    """f on a grid, shape (n, n): the finite game that linear programming and Algorithm 1 can play."""
    x, y = angles[:, None], angles[None, :]
    return np.cos(x - y) + P.real * np.cos(x) + Q.imag * np.sin(y)


def exploitability(u: Points, v: Points) -> Array:
    """The duality gap of mixtures with averages `u` and `v`: shapes (...) to (...)."""
    best_y = np.abs(u + Q) + (P * u.conj()).real
    best_x = -np.abs(v + P) + (Q * v.conj()).real
    return best_y - best_x


def step_size(iterations: int) -> float:
    """The eta of `iterations` steps: a density that finds the best angle to 1/sqrt(T) has a divergence of about log(T) / 2."""
    return finite.step_size(SPAN, float(np.log(iterations)), iterations)


def bound(eta: float, t: Array) -> Array:
    """What exact densities guarantee after t steps from uniform ones.

    `finite.bound` against a best angle that is smeared out over 2w: a divergence of log(pi / w) and a loss of at most
    w^2 / 6 of the payoff's amplitude, w chosen best for each t.
    """
    width = np.minimum(np.pi, np.sqrt(3 / (REACH * eta * t)))
    smeared = np.log(np.pi / width) + REACH * eta * t * width**2 / 6
    return finite.bound(SPAN, 2 * smeared, eta, t)


def gradient_play(x: float, y: float, gamma: float, iterations: int) -> tuple[Points, Points]:
    """Pure strategies, gradient descent-ascent with step size `gamma`: the points played, shapes (T,) on the circle."""
    us, vs = np.empty(iterations, complex), np.empty(iterations, complex)
    for t in range(iterations):
        us[t], vs[t] = np.exp(1j * x), np.exp(1j * y)
        x, y = float(x - gamma * _slope(x, vs[t] + P)), float(y + gamma * _slope(y, us[t] + Q))
    return us, vs


def langevin_play(
    eta: float, iterations: int, seed: int, inner: int = 20, chains: int = 16, gamma: float = 0.3
) -> tuple[Points, Points]:
    """Algorithm 1 sampled: at each step `inner` Langevin steps from the last samples, then the moving averages.

    After t steps mirror descent plays the density exp(-eta t f(., v)) of its own angle, v being the other's average so far.
    Langevin steps angle -+ gamma df/dangle + sqrt(2 gamma) epsilon xi sample it where epsilon^2 = 1 / (eta t), which is
    the update of Algorithm 2 with a noise that fades as the theory wants it. The average is a moving one with beta = 1 - 1/t.
    The colder the target the slower its chain: with `inner` fixed, samples fall ever further behind the exact densities.

    Args:
        eta: step size of mirror descent.
        iterations: T.
        seed: the play is a function of it.
        inner: Langevin steps per iteration, K in Algorithm 2.
        chains: samples per player.
        gamma: step size of a Langevin step.

    Returns:
        Each player's samples at each step, averaged over the chains, shapes (T,), in the disc.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-np.pi, np.pi, (2, chains))
    us, vs = np.empty(iterations, complex), np.empty(iterations, complex)
    u, v = 0j, 0j
    for t in range(1, iterations + 1):
        us[t - 1], vs[t - 1] = np.exp(1j * x).mean(), np.exp(1j * y).mean()
        u, v = u + (us[t - 1] - u) / t, v + (vs[t - 1] - v) / t
        epsilon = 1 / np.sqrt(eta * t)
        for noise_x, noise_y in np.sqrt(2 * gamma) * epsilon * rng.standard_normal((inner, 2, chains)):
            x = x - gamma * _slope(x, v + P) + noise_x
            y = y + gamma * _slope(y, u + Q) + noise_y
    return us, vs


def _slope(angle: Array | float, pull: complex) -> Array | float:
    """d/d angle of <e^{i angle}, pull>."""
    return -abs(pull) * np.sin(angle - np.angle(pull))
