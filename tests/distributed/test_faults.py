"""Numbers that are not finite, and an input gradient taken through DeepSpeed's engine instead of its module."""

import pytest

from tests.support.expected import STAGES, named
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_sample_that_overflowed_is_drawn_again_and_a_loss_that_is_not_finite_stops_all_ranks(ranks):
    report = run_ranks("tests.workers.overflow", ranks)
    for stage in range(4):
        skipped_high, skipped_low, difference = report.pop(f"overflow zero-{stage}")
        # The first sample is repeated until the loss scale has fallen; the runs then differ only by fp16 rounding.
        assert skipped_high >= 4 and skipped_low == 0, (stage, skipped_high, skipped_low)
        assert difference < 5e-2, (stage, difference)
    broken = ("loss", "loss bf16", "one rank's loss", "loss fp16", "scale", "gradient", "gradient bf16")
    assert report.keys() == named("{} zero-{}", broken, STAGES)
    assert [name for name, right in report.items() if not right] == []


@pytest.fixture(scope="module")
def perturbed():
    return run_ranks("tests.workers.wrong_probe", 2)


def test_zero_3_gathers_the_whole_model_once_for_a_loop_and_computes_the_same(perturbed):
    report = {name.partition(": ")[2]: found for name, found in perturbed.items() if name.startswith("gathered: ")}
    assert len(report) == 6 and all(found["same"] for found in report.values())
    for name, found in report.items():
        (by_layer, sent), (whole, held) = found["layer"], found["model"]
        assert (by_layer, whole) == ("layer", "model")
        # The loop's perturbations and predictions, and then an outer step that still has the model for its own loop.
        least = 0.9 if "whole" in name else 0.999
        assert least <= held[0] <= 1.001 and least <= held[2] <= 1.001, name
        assert sent[0] >= held[0] and held[1] <= sent[1], name
        if name.startswith("mat"):
            assert held[1] < 0.6 * sent[1] and sent[0] > 5, name
    assert perturbed["gathered"] == {"chosen": [None, "model", "layer"], "freed": [True] * 6}


def test_a_gradient_through_deepspeeds_forward_would_be_noticed_and_the_perturbations_loop_is_local(perturbed):
    report = perturbed
    assert report["right"] < 1e-3 < report["wrong"]
    waits = {"zero-0": 2, "zero-1": 0, "zero-2": 0, "fp16 zero-1": 2}
    for name, most in waits.items():
        found = report[name]
        assert found["loops"] == [0, 0] and found["updates"]  # none in the loops of both micro-batches; updates do communicate
        # Nothing is read before the step ends, except for each of two updates where fp16's loss scale depends on it, and
        # without ZeRO in fp32, where DeepSpeed checks no gradient.
        assert found["step"] == most
        if "zero-1" in name:  # for each of two updates: two parameter groups, reduced to two owners, and one norm
            assert found["updates"] == {"reduce": 2 * 2 * 2, "all_reduce": 2}
