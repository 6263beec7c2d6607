"""Telemetry is correct and does not change the run, and the pre-flight notices perturbations lost in rounding."""

import pytest

from tests.support.expected import PRECISIONS, STAGES, named
from tests.support.launch import run_cli, run_ranks

pytestmark = pytest.mark.dist

RUNS = named("{}, {}, zero-{}", ("mat",), PRECISIONS, STAGES, of=2)
RUNS |= named("{}, {}, zero-{}", ("rdrop", "freelb"), PRECISIONS, (2, 3), of=2)


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids="{} ranks".format)
def report(request):
    return run_ranks("tests.workers.telemetry", request.param)


def test_a_run_with_telemetry_is_bit_for_bit_one_without(report):
    same = {name: value for name, value in report.items() if name.startswith("undisturbed")}
    assert same.keys() == named("undisturbed, {}", RUNS) and all(same.values()), same


def test_measurements_are_finite_and_equal_those_of_plain_torch(report):
    assert not {name: value for name, value in report.items() if name.startswith("values") and value}
    truth = {name: far for name, far in report.items() if name.startswith(("truth", "moved"))}
    assert truth.keys() == named("moved, {}", RUNS) | named("truth, zero-{}", STAGES)
    assert all(far < 1e-4 for far in truth.values()), truth


def test_the_preflight_names_a_radius_and_the_precisions_that_work(report):
    found = {name.removeprefix("pre-flight, "): text for name, text in report.items() if name.startswith("pre-flight")}
    assert found.keys() == named("{}, {}", PRECISIONS, ("1e-05", "1e-04", "1e-03", "1e-02"))
    assert not any(found[name] for name in found if name.startswith("fp32"))
    for half in ("bf16", "fp16"):
        assert "below the resolution of " + half in found[f"{half}, 1e-05"] and "or fp32;" in found[f"{half}, 1e-05"]
        assert found[f"{half}, 1e-02"] is None
    assert "fp32 or fp16" in found["bf16, 1e-03"] and found["fp16, 1e-03"] is None


@pytest.mark.parametrize("choice, code", [("error", 2), ("warn", 0)])
def test_an_invisible_adversary_stops_a_run_or_warns(choice, code, tmp_path):
    done = run_cli(
        "--ds_config",
        "ds_configs/zero2_rtx3090_bf16.json",
        f"output_dir={tmp_path}/run",
        f"method.on_invisible={choice}",
        "method.delta_max_norm=1e-5",
        "method.delta_init_scale=1e-5",
        "train.max_steps=2",
        "data.train_limit=128",
        "data.eval_limit=64",
        ranks=2,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert "below the resolution of bf16" in done.stderr and "times as large" in done.stderr
    assert ("WARNING" in done.stderr) == (choice == "warn")
    assert (tmp_path / "run").exists() == (choice == "warn")
