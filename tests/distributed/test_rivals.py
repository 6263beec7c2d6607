"""Every rival of MAT under ZeRO ends with the parameters of its float64 oracle, and averages do not disturb training."""

import pytest

from tests.support.expected import PRECISIONS, STAGES, named, rival_runs
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist

ROUND_OFF, HALF_ROUND_OFF = 1e-3, 1e-1
# Adam turns the finite differences' errors into whole steps where a gradient is near zero. Ignoring the follower costs 4e-2.
DIFFERENCES = 3e-3


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("accumulation", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_every_rival_gives_the_oracles_parameters_at_every_stage_and_accumulation(ranks, accumulation):
    report = run_ranks("tests.workers.rivals", ranks, accumulation)
    assert report.keys() == {f"{name}, zero-{stage}, accumulation {accumulation}" for name, stage in rival_runs()}
    tolerance = {name: DIFFERENCES if "finite_difference" in name else ROUND_OFF for name in report}
    assert not {name: far for name, far in report.items() if not far <= tolerance[name]}


DISTANCES = ("raw", "uniform", "moving", "uniform seen", "moving seen")


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids="{} ranks".format)
def averages(request):
    report = run_ranks("tests.workers.averaging", request.param)
    layouts = named("{} zero-{}", PRECISIONS, STAGES, of=2) | named("offload zero-{}", (1, 2, 3))
    layouts |= {"nothing persistent", "fp32 accumulation"}
    assert report.keys() == named("{}, {}", (*DISTANCES, "bytes", "student", "refusal"), layouts)
    return report


def test_averages_equal_the_oracles_and_passes_use_them(averages):
    half = ("bf16", "fp16", "accumulation")
    distances = {name: far for name, far in averages.items() if name.split(",")[0] in DISTANCES}
    tolerance = {name: HALF_ROUND_OFF if any(word in name for word in half) else ROUND_OFF for name in distances}
    assert not {name: far for name, far in distances.items() if not far <= tolerance[name]}


def test_using_an_average_leaves_the_parameters_bit_for_bit(averages):
    assert not [name for name, same in averages.items() if name.startswith("student") and not same]


def test_an_average_costs_four_bytes_a_parameter_over_all_ranks_and_a_copy_each_without_zero(averages):
    shares = {name: share for name, share in averages.items() if name.startswith("bytes")}
    # In addition to Adam's two moments; alignment pads each shard by a few elements.
    assert all(0.98 <= share <= 1.02 for share in shares.values()), shares


def test_averages_are_refused_between_a_forward_and_its_backward(averages):
    assert all(refused for name, refused in averages.items() if name.startswith("refusal"))
