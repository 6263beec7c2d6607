"""Algorithm 1 on finite games against linear programming, and the same algorithm sampled with Langevin steps."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linprog

from examples.games import __main__ as command
from examples.games import circle
from examples.games.finite import PENALTY_KICK, ROCK_PAPER_SCISSORS, Game
from mat_ds.errors import ExitCode

SHAPES = [(1, 1), (1, 4), (5, 1), (2, 2), (2, 7), (3, 3), (6, 2), (4, 5), (9, 9), (20, 8)]


def solved(payoff):
    """The exact value and an equilibrium: the smallest v such that some x pays at most v against every column."""
    n, m = payoff.shape
    cost, simplex = np.r_[np.zeros(n), 1], np.r_[np.ones(n), 0][None]
    bounds = [(0, None)] * n + [(None, None)]
    found = linprog(cost, np.c_[payoff.T, -np.ones(m)], np.zeros(m), simplex, [1.0], bounds)
    return found.fun, found.x[:n], -found.ineqlin.marginals


def averages(pair):
    """Averages of the first 1, 2, ..., T iterates."""
    return tuple((side.cumsum(0).T / np.arange(1, len(side) + 1)).T for side in pair)


def guaranteed(game, iterations):
    """An upper bound for the averages of the first 1, 2, ..., T iterates, by Hoeffding's lemma."""
    eta, divergence = game.step_size(iterations), -np.log(game.x.min()) - np.log(game.y.min())
    return divergence / (eta * np.arange(1, iterations + 1)) + eta * np.ptp(game.payoff) ** 2 / 4


@pytest.mark.parametrize("shape", SHAPES)
def test_averages_of_random_games_approach_the_exact_solution_within_the_bound(shape):
    rng, iterations = np.random.default_rng(shape), 300
    for scale, offset in ((1, 0), (0.01, 0), (30, -400), (1, 5)):
        payoff, close = offset + scale * rng.uniform(-1, 1, shape), 1e-7 * scale
        value, x, y = solved(payoff)
        for start in [np.full(n, 1 / n) for n in shape], [rng.dirichlet(np.ones(n)) for n in shape]:
            game = Game(payoff, *start)
            assert game.exploitability(x, y) == pytest.approx(0, abs=close)
            xs, ys = averages(game.mirror_descent(iterations))
            gaps, bound = game.exploitability(xs, ys), game.bound(iterations)
            assert (gaps >= -close).all() and gaps[-1] <= bound + close
            assert bound == 0 or (gaps <= guaranteed(game, iterations) + close).all()
            assert (xs @ payoff)[-1].max() >= value - close and (ys @ payoff.T)[-1].min() <= value + close
            assert xs[-1] @ payoff @ ys[-1] == pytest.approx(value, abs=bound + close)


def test_the_bound_falls_with_the_root_of_the_iterations_and_the_step_size_minimises_it():
    game = Game(np.arange(15.0).reshape(3, 5), np.full(3, 1 / 3), np.full(5, 1 / 5))
    for iterations in (10, 1000):
        best, eta = game.bound(iterations), game.step_size(iterations)
        assert best == pytest.approx(14 * np.sqrt(np.log(15) / iterations)) == guaranteed(game, iterations)[-1]
        for other in (0.5 * eta, 0.9 * eta, 1.1 * eta, 2 * eta):
            assert np.log(15) / (other * iterations) + other * 14**2 / 4 > best


def test_in_a_game_with_one_payoff_every_strategy_is_optimal():
    game = Game(np.full((2, 3), 7.0), np.full(2, 1 / 2), np.full(3, 1 / 3))
    assert game.exploitability(*game.mirror_descent(5)) == pytest.approx(0) and game.bound(5) == 0


def test_in_rock_paper_scissors_the_average_converges_and_the_last_iterate_spirals_away():
    gaps = {}
    for iterations in (100, 1000, 10_000):
        iterates = ROCK_PAPER_SCISSORS.mirror_descent(iterations)
        average = ROCK_PAPER_SCISSORS.exploitability(*averages(iterates))
        assert (average <= guaranteed(ROCK_PAPER_SCISSORS, iterations)).all()
        gaps[iterations] = average[-1]
    assert gaps[10_000] < gaps[1000] < gaps[100] < 1 and ROCK_PAPER_SCISSORS.exploitability(*iterates)[-1] > 1
    assert np.abs(np.stack(averages(iterates))[:, -1] - 1 / 3).max() < 0.01
    # The distance to the equilibrium, as mirror descent measures it, never falls (Bailey and Piliouras, 2018).
    distance = -sum(np.log(side).mean(1) for side in iterates)
    assert (np.diff(distance) > -1e-12).all()


def test_best_responses_to_a_penalty_kick_cycle_and_their_average_is_no_equilibrium():
    _, x, y = solved(PENALTY_KICK.payoff)
    assert np.allclose(x, [5 / 12, 7 / 12]) and np.allclose(y, [23 / 60, 37 / 60])
    rows, columns = pure = PENALTY_KICK.best_responses(10_000)
    assert len({(*row, *column) for row, column in zip(rows[:4], columns[:4], strict=True)}) == 4
    assert (rows[4:] == rows[:-4]).all() and (columns[4:] == columns[:-4]).all()
    last, average = PENALTY_KICK.exploitability(*pure), PENALTY_KICK.exploitability(*averages(pure))
    mixed = PENALTY_KICK.exploitability(*averages(PENALTY_KICK.mirror_descent(10_000)))
    assert last.min() > 0.2 and average[-100:].min() > 0.05 > 0.01 > PENALTY_KICK.bound(10_000) > mixed[-1]


def test_the_game_of_angles_has_the_equilibrium_it_says_and_none_of_pure_strategies():
    game, points = circle.GRID, np.exp(1j * circle.ANGLES)
    value, x, y = solved(game.payoff)
    assert value == pytest.approx(0, abs=1e-7)
    assert np.stack([x @ points, y @ points]) == pytest.approx(np.stack(circle.EQUILIBRIUM), abs=1e-6)
    assert circle.exploitability(*circle.EQUILIBRIUM) == pytest.approx(0)
    xs, ys = np.random.default_rng(0).dirichlet(np.full(len(points), 0.1), (2, 50))
    missed = circle.exploitability(xs @ points, ys @ points) - game.exploitability(xs, ys)
    assert missed.min() > -1e-12 and missed.max() < 0.004
    assert circle.exploitability(points[:, None], points[None, :]).min() > 0.7


def test_gradient_play_runs_round_the_circle():
    pure = circle.gradient_play(1000)
    turns = [np.ptp(np.unwrap(np.angle(side))) / (2 * np.pi) for side in pure]
    assert min(turns) > 10 and circle.exploitability(*pure).min() > 0.7
    assert circle.exploitability(*averages(pure)).min() > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_langevin_samples_follow_the_exact_densities_to_the_equilibrium(seed):
    exact, sampled = averages(circle.mirror_descent(1000)), averages(circle.langevin_play(1000, seed))
    gaps, bound = circle.exploitability(*sampled), guaranteed(circle.GRID, 1000)
    assert (circle.exploitability(*exact) <= bound).all() and (gaps <= bound).all()
    assert gaps[-1] < 0.12 < gaps[99] < 0.8 < gaps[9]
    assert np.abs(np.stack(sampled) - np.stack(exact))[:, 100:].max() < 0.1
    assert np.abs(np.stack(sampled)[:, -1] - np.stack(circle.EQUILIBRIUM)).max() < 0.1
    # The equilibrium is mixed: the nearest pure strategies stay exploitable.
    assert circle.exploitability(*(side[-1] / abs(side[-1]) for side in sampled)) > 0.7


def test_langevin_samples_depend_only_on_the_seed():
    once, again, other = (np.stack(circle.langevin_play(50, seed)) for seed in (0, 0, 1))
    assert (once == again).all() and (once != other).all()


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "ITERATIONS", (10, 40))
    monkeypatch.setattr(command, "SHOWN", 40)
    folder = tmp_path / "new" / "games"
    assert command.main([str(folder)]) is ExitCode.OK
    assert {path.name for path in folder.iterdir()} == {"rock_paper_scissors.png", "penalty_kick.png", "angles.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    iterates = ROCK_PAPER_SCISSORS.mirror_descent(40)
    last, average = (ROCK_PAPER_SCISSORS.exploitability(*pair)[-1] for pair in (iterates, averages(iterates)))
    assert f"40{ROCK_PAPER_SCISSORS.bound(40):10.4f}{last:10.4f}{average:10.4f}\n" in capsys.readouterr().out


def test_wrong_arguments_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "ITERATIONS", (10,))
    (tmp_path / "file").touch()
    assert command.main([str(tmp_path / "file")]) is ExitCode.USER_ERROR
    assert "folder = " in capsys.readouterr().err
    for arguments in (["a", "b"], ["--iterations=3"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments)
        assert stopped.value.code == ExitCode.USER_ERROR and arguments[-1] in capsys.readouterr().err


def test_the_games_need_neither_torch_nor_deepspeed():
    code = "import sys, examples.games.__main__; sys.exit(bool({'torch', 'deepspeed', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
