"""Search spaces, and the errors reported before a sweep begins."""

import pytest

from mat_ds.commands.sweep import check, parse
from mat_ds.config.overrides import given_twice
from mat_ds.errors import ExitCode
from mat_ds.runs.load import load_run_config
from mat_ds.runs.options import RunConfig
from mat_ds.sweeps.launching import read_launching
from mat_ds.sweeps.mirror import tracking_options
from mat_ds.sweeps.space import overrides, read_space
from mat_ds.tracking.options import TrackingConfig
from tests.support.launch import ROOT
from tests.support.sweeping import GRID, Sweep

pytestmark = pytest.mark.usefixtures("at_once")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"options": {"method.lamb": {"choices": [1.0]}}}, "did you mean 'lam'?"),
        ({"options": {"method.lam": {"choices": [-1.0]}}}, "method.lam = -1.0"),
        ({"options": {"method.theta_steps": {"low": 1.0, "high": 9.5}}}, "method.theta_steps = 9.5"),
        ({"options": {"method.lam": {"low": 0, "high": 1, "log": True}}}, "zero has no logarithm"),
        ({"options": {"method.lam": {"low": 2, "high": 1}}}, "low is above high"),
        ({"options": {"method.lam": {"low": 0.1, "high": 1.0}}, "sampler": "grid"}, "a grid needs steps"),
        ({"options": {"seed": {"low": 0, "high": 2000, "step": 1}}, "sampler": "grid"}, "2,001 combinations"),
        ({"options": {"method.lam": {"lo": 1, "high": 2}}}, "options.method.lam.lo"),
        ({"options": {"seed": {"low": 0, "high": 2**62, "step": 1}}, "sampler": "grid"}, "more than 1,000"),
        ({"options": {"method.lam": {"low": 0.0, "high": 1e308, "step": 1e-300}}, "sampler": "grid"}, "more than 1,000"),
        ({"options": {"method.lam": {"choices": [1.0, 2.0, 1.0]}}}, "is among the choices twice"),
        ({"options": {"method.lam, method.lam": {"choices": [1.0]}}}, "is searched twice"),
        ({"options": {"method.lam, seed": {"choices": [1]}, "seed": {"choices": [2]}}}, "is searched twice"),
        ({"options": {"method.lam": {"low": 0, "high": float("inf")}}}, "finite"),
        ({"options": {"method.lam": {"choices": [[1]]}}}, "options.method.lam"),
        ({"options": {}}, "options = {}"),
        ({"options": {"method.lam": {"choices": [1.0]}}, "sampler": "best"}, "sampler = 'best'"),
    ],
)
def test_an_invalid_space_is_refused_before_anything_is_written(space, said, tmp_path, capsys):
    sweep = Sweep(tmp_path, space)
    assert sweep.run() == ExitCode.USER_ERROR and said in capsys.readouterr().err and not sweep.folder.exists()


def test_grid_values_are_round_numbers_not_above_the_highest(tmp_path):
    options = {
        "method.lam": {"low": 0.1, "high": 0.7, "step": 0.1},
        "optimizer.lr": {"low": 1e-6, "high": 3e-6, "step": 1e-6},
        "method.theta_steps": {"low": 1, "high": 5, "step": 2},
    }
    Sweep(tmp_path, {"options": options, "sampler": "grid"})
    grid = read_space(tmp_path / "space.yaml").grid
    assert sorted({values["method.lam"] for values in grid}) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert sorted({values["optimizer.lr"] for values in grid}) == [1e-6, 2e-6, 3e-6]
    steps = sorted({values["method.theta_steps"] for values in grid})
    assert steps == [1, 3, 5] and all(isinstance(step, int) for step in steps)


def test_options_that_the_sweep_sets_are_refused(tmp_path, capsys):
    sweep = Sweep(tmp_path, GRID)
    assert sweep.run("method.lam=2", "train.resume=never") == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "method.lam = '2'" in said and "train.resume" in said


def test_packaged_spaces_fit_their_recipes():
    baselines = [("vanilla", path.stem) for path in (ROOT / "launch" / "recipes").glob("vanilla_*_bert.yaml")]
    for space, recipe in (("mat_table7", "cola_bert"), ("mat_table7", "cola"), ("demo", "demo"), *baselines):
        parsed = parse(["--space", f"{ROOT}/launch/sweeps/{space}.yaml", "--recipe", f"{ROOT}/launch/recipes/{recipe}.yaml"])
        check(read_space(parsed.space), read_launching(parsed, ()))


def test_trials_name_their_parent_run(tmp_path, monkeypatch):
    def options(**given):
        run = RunConfig(tracking=TrackingConfig(**given))
        read = load_run_config(None, tracking_options(run, tmp_path / "lam", 3, "cafe")).tracking
        return {"tags": read.tags, "uri": read.uri, "experiment": read.experiment}

    own = {"mat_ds.sweep": "lam", "mat_ds.trial": "3", "mat_ds.parent": "cafe"}
    assert options() == {"tags": own, "uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "lam"}
    given = options(uri="http://localhost:5000", experiment="mine", tags={"team": "x"})
    assert given == {"tags": {"team": "x", **own}, "uri": "http://localhost:5000", "experiment": "mine"}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert options()["uri"] == "none"  # many jobs would write to one SQLite file
    read = load_run_config(None, tracking_options(RunConfig(), tmp_path / "lam", 3, "cafe"))
    assert read.tracking.tags == own and read.tracking.uri == "none"


def test_a_sweep_sets_each_option_once_and_keeps_the_users_tags(tmp_path):
    parsed = parse(
        ["--space", "x.yaml", "tracking.tags.team=a #1", "tracking.uri=none", f"output_dir={tmp_path}/lam", "seed=3"]
    )
    launching = read_launching(parsed, ())
    options = [*overrides({"method.lam, method.beta_s": 0.5}), *tracking_options(launching.run, tmp_path / "lam", 3, "cafe")]
    given = [word for word in launching.command(tmp_path / "lam" / "trial-0003", options) if "=" in word]
    run = load_run_config(None, given)
    assert not list(given_twice(given)) and run.output_dir == f"{tmp_path}/lam/trial-0003" and run.train.resume == "auto"
    own = {"mat_ds.sweep": "lam", "mat_ds.trial": "3", "mat_ds.parent": "cafe"}
    assert run.tracking.tags == {"team": "a #1", **own} and (run.seed, run.method.lam, run.method.beta_s) == (3, 0.5, 0.5)
