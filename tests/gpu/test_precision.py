"""On a GPU: each precision against the float64 oracle, fp16 overflow, and bit-identical runs. One card is enough."""

import pytest
import torch
from safetensors.torch import load_file

from tests.support.expected import HALF_RIVALS, exactness, rival_runs
from tests.support.launch import run_cli, run_ranks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here")]


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-3), ("fp16", 5e-2), ("bf16", 5e-2)])
def test_every_stage_update_rule_and_accumulation_gives_the_oracles_parameters(precision, tolerance):
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bf16")
    report = run_ranks("tests.workers.exactness", 1, precision, "2", device="cuda")
    assert report.keys() == exactness("2")
    assert not {name: far for name, far in report.items() if not far <= tolerance}


def test_every_rival_gives_the_oracles_parameters():
    report = run_ranks("tests.workers.rivals", 1, "2", device="cuda")
    assert report.keys() == {f"{name}, zero-{stage}, accumulation 2" for name, stage in rival_runs()}
    tolerance = {name: 3e-3 if "finite_difference" in name else 1e-3 for name in report}
    assert not {name: far for name, far in report.items() if not far <= tolerance[name]}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_rivals_in_half_precision_stay_by_the_oracle(precision):
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bf16")
    report = run_ranks("tests.workers.rivals", 1, "2", precision, device="cuda")
    assert report.keys() == {f"{name}, zero-{stage}, accumulation 2" for name, stage in rival_runs() if name in HALF_RIVALS}
    assert not {name: far for name, far in report.items() if not far <= 0.1}


def test_fp16_overflow_repeats_the_sample_and_a_loss_that_is_not_finite_stops_the_run():
    report = run_ranks("tests.workers.overflow", 1, device="cuda")
    for stage in range(4):
        skipped_high, skipped_low, difference = report.pop(f"overflow zero-{stage}")
        assert skipped_high >= 4 and skipped_low == 0 and difference < 5e-2
    assert [name for name, right in report.items() if not right] == []


@pytest.mark.parametrize("profile", ["zero2", "zero3_offload", "zero2_v100_fp16", "zero2_rtx3090_bf16"])
def test_deterministic_runs_are_bit_identical_and_the_export_reproduces_its_score(profile, tmp_path):
    if "bf16" in profile and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this card has no bf16")
    options = (
        "--ds_config",
        f"ds_configs/{profile}.json",
        "train.max_steps=20",
        "model.dropout=0.1",
        "train.deterministic=true",
        "tracking.uri=none",
    )
    weights = []
    for name in ("first", "second"):
        done = run_cli(*options, f"output_dir={tmp_path}/{name}", ranks=1, device="cuda", timeout=150)
        assert done.returncode == 0 and "reproduces its score" in done.stdout, done.stderr[-3000:]
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
