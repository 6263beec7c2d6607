"""Algorithm 1 on finite games against linear programming, and the same algorithm sampled with Langevin steps."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import linprog

from mat_ds.errors import ExitCode, UserError
from mat_ds.games import __main__ as command
from mat_ds.games import circle, examples, figures, finite

SHAPES = [(1, 1), (1, 4), (5, 1), (2, 2), (2, 7), (3, 3), (6, 2), (4, 5), (9, 9), (20, 8)]


def solved(payoff):
    """Value and an equilibrium, exactly: the least v such that some x pays at most v against every column."""
    n, m = payoff.shape
    cost, simplex = np.r_[np.zeros(n), 1], np.r_[np.ones(n), 0][None]
    bounds = [(0, None)] * n + [(None, None)]
    found = linprog(cost, np.c_[payoff.T, -np.ones(m)], np.zeros(m), simplex, [1.0], bounds)
    return found.fun, found.x[:n], -found.ineqlin.marginals


def played(payoff, x, y, iterations):
    span, divergence = np.ptp(payoff), finite.divergence(x, y)
    eta = finite.step_size(span, divergence, iterations)
    xs, ys = (finite.running_average(side) for side in finite.mirror_descent(payoff, x, y, eta, iterations))
    return xs, ys, finite.bound(span, divergence, eta, np.arange(1, iterations + 1))


@pytest.mark.parametrize("shape", SHAPES)
def test_averages_of_random_games_approach_the_exact_solution_within_the_bound(shape):
    rng = np.random.default_rng(shape)
    for scale, offset in ((1, 0), (0.01, 0), (30, -400), (1, 5)):
        payoff = offset + scale * rng.uniform(-1, 1, shape)
        value, x, y = solved(payoff)
        assert finite.exploitability(payoff, x, y) == pytest.approx(0, abs=1e-7 * scale)
        for start in (finite.uniform(shape[0]), finite.uniform(shape[1])), tuple(rng.dirichlet(np.ones(n)) for n in shape):
            xs, ys, bound = played(payoff, *start, 300)
            gaps = finite.exploitability(payoff, xs, ys)
            assert (gaps >= -1e-9 * scale).all() and (gaps <= bound + 1e-9 * scale).all()
            assert (xs @ payoff)[-1].max() >= value - 1e-7 * scale and (ys @ payoff.T)[-1].min() <= value + 1e-7 * scale
            assert xs[-1] @ payoff @ ys[-1] == pytest.approx(value, abs=bound[-1] + 1e-7 * scale)


def test_the_bound_falls_with_the_root_of_the_iterations_and_no_other_step_size_has_a_smaller_one():
    divergence = finite.divergence(finite.uniform(3), finite.uniform(5))
    assert divergence == pytest.approx(np.log(15))
    for iterations in (10, 1000):
        eta = finite.step_size(4.0, divergence, iterations)
        best = finite.bound(4.0, divergence, eta, iterations)
        assert best == pytest.approx(4 * np.sqrt(divergence / iterations))
        assert all(finite.bound(4.0, divergence, eta * factor, iterations) > best for factor in (0.5, 0.9, 1.1, 2))


def test_a_game_of_one_payoff_is_solved_by_anything():
    xs, ys, bound = played(np.full((2, 3), 7.0), finite.uniform(2), finite.uniform(3), 5)
    assert finite.exploitability(np.full((2, 3), 7.0), xs, ys) == pytest.approx(0) and np.isfinite(bound).all()


def test_in_rock_paper_scissors_the_average_converges_and_the_last_iterate_spirals_away():
    gaps = {}
    for iterations in (100, 1000, 10_000):
        run = examples.rock_paper_scissors(iterations)
        last, average = run.exploitability["mixed"]
        assert (average <= run.bound).all()
        gaps[iterations] = average[-1]
    assert gaps[10_000] < gaps[1000] < gaps[100] and last[-1] > 1 > run.bound[-1]
    assert np.abs(np.stack([side[-1] for side in run.averages["mixed"]]) - 1 / 3).max() < 0.01
    # The distance to the equilibrium, as mirror descent measures it, never falls (Bailey and Piliouras, 2018).
    distance = -sum(np.log(side).mean(1) for side in run.iterates["mixed"])
    assert (np.diff(distance) > -1e-12).all()


def test_best_responses_to_a_penalty_kick_cycle_and_their_average_is_no_equilibrium():
    run = examples.penalty_kick(10_000)
    _, x, y = solved(examples.PENALTY_KICK)
    assert np.allclose(run.equilibrium[0], x) and np.allclose(run.equilibrium[1], y)
    rows, columns = run.iterates["pure"]
    assert len({(*row, *column) for row, column in zip(rows[:4], columns[:4], strict=True)}) == 4
    assert (rows[4:] == rows[:-4]).all() and (columns[4:] == columns[:-4]).all()
    (last, average), (_, mixed) = run.exploitability["pure"], run.exploitability["mixed"]
    assert last.min() > 0.2 and average[-100:].min() > 0.05 > 0.01 > run.bound[-1] > mixed[-1]


def test_the_game_of_angles_has_the_equilibrium_it_says_and_none_of_pure_strategies():
    payoff, points = circle.payoff_matrix(examples.ANGLES), np.exp(1j * examples.ANGLES)
    value, x, y = solved(payoff)
    assert value == pytest.approx(circle.VALUE, abs=1e-7)
    assert x @ points == pytest.approx(-circle.Q, abs=1e-6) and y @ points == pytest.approx(-circle.P, abs=1e-6)
    strategies = np.random.default_rng(0).dirichlet(np.full(len(points), 0.1), 100)
    on_the_grid = finite.exploitability(payoff, strategies[:50], strategies[50:])
    assert circle.exploitability(strategies[:50] @ points, strategies[50:] @ points) == pytest.approx(on_the_grid, abs=5e-3)
    assert circle.exploitability(points[:, None], points[None, :]).min() > 0.7


@pytest.fixture(scope="module")
def angles():
    return examples.angles(1000)


def test_gradient_play_runs_round_the_circle(angles):
    turns = [np.ptp(np.unwrap(np.angle(side))) / (2 * np.pi) for side in angles.iterates["pure"]]
    last, average = angles.exploitability["pure"]
    assert min(turns) > 10 and last.min() > 0.7 and average.min() > 0.5


def test_exact_densities_keep_to_a_bound_that_smears_the_best_angle_as_suits_it_best(angles):
    assert (angles.exploitability["exact"][1] <= angles.bound).all()
    eta, t, reach = circle.step_size(1000), np.arange(1.0, 1001), circle.REACH
    width = np.linspace(0.01, np.pi, 400)[:, None]
    # Twice: the divergence of an arc of half-width w from the whole circle, and its loss, over eta t; and the step's own cost.
    any_width = 2 * (np.log(np.pi / width) / (eta * t) + reach * width**2 / 6) + eta * (2 * reach) ** 2 / 4
    assert angles.bound == pytest.approx(any_width.min(0), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_langevin_samples_follow_the_exact_densities_to_the_equilibrium(angles, seed):
    run = examples.angles(1000, seed) if seed else angles
    average = run.exploitability["mixed"][1]
    assert (average <= run.bound).all() and average[-1] < 0.12 < average[99] < 0.8 < average[9]
    for player in (0, 1):
        exact, sampled = run.averages["exact"][player], run.averages["mixed"][player]
        assert np.abs(sampled - exact)[100:].max() < 0.1 and abs(sampled[-1] - run.equilibrium[player]) < 0.1
        assert abs(sampled[-1]) < 0.6
    # A mixture it is: the nearest pure strategies are as exploitable as ever.
    assert circle.exploitability(*(side[-1] / abs(side[-1]) for side in run.averages["mixed"])) > 0.7


def test_langevin_play_is_a_function_of_its_seed(angles):
    again = examples.angles(1000)
    assert all((a == b).all() for a, b in zip(angles.iterates["mixed"], again.iterates["mixed"], strict=True))
    other = examples.angles(1000, seed=1)
    assert (angles.iterates["mixed"][0] != other.iterates["mixed"][0]).all()


@pytest.mark.parametrize("payoff, x, y, named", [
    (np.ones(3), np.ones(1), np.ones(1), "payoff"),
    (np.array([[np.nan]]), np.ones(1), np.ones(1), "payoff"),
    (np.ones((2, 1)), np.ones(1), np.ones(1), "x"),
    (np.ones((1, 2)), np.ones(1), np.array([1.0, 0.0]), "y"),
    (np.ones((1, 2)), np.ones(1), np.array([0.4, 0.4]), "y"),
])  # fmt: skip
def test_what_is_no_game_or_no_strategy_is_refused(payoff, x, y, named):
    with pytest.raises(UserError) as error:
        finite.mirror_descent(payoff, x, y, 0.1, 10)
    assert named in {problem.key for problem in error.value.problems}


def test_the_command_prints_the_table_and_writes_the_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "ITERATIONS", (10, 40))
    monkeypatch.setattr(command, "SHOWN", 40)
    folder = tmp_path / "new" / "games"
    assert command.main([str(folder)]) is ExitCode.OK
    assert {path.name for path in folder.iterdir()} == {"rock_paper_scissors.png", "penalty_kick.png", "angles.png"}
    play, draw, curves = command.FIGURES["penalty_kick"]
    runs = [play(10), play(40)]
    assert (folder / "penalty_kick.png").read_bytes() == figures.png(draw, runs, runs[1], curves)
    last, average = runs[1].exploitability["mixed"]
    assert f"40 {average[-1]:8.4f} {runs[1].bound[-1]:8.4f} {last[-1]:8.4f}" in capsys.readouterr().out


def test_wrong_arguments_are_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main([str(tmp_path / "file")]) is ExitCode.USER_ERROR
    assert "folder = " in capsys.readouterr().err
    for arguments in (["a", "b"], ["--iterations=3"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(arguments)
        assert stopped.value.code == ExitCode.USER_ERROR and arguments[-1] in capsys.readouterr().err


def test_the_games_need_neither_torch_nor_deepspeed():
    code = "import sys, mat_ds.games.__main__; sys.exit(bool({'torch', 'deepspeed', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
