"""Shards: the mixture costs four bytes a parameter over all ranks, a checkpoint restores them bit for bit, and
predictions come back whole and in order."""

import pytest

from tests.support.expected import PRECISIONS, STAGES, continued, named
from tests.support.launch import run_ranks

pytestmark = pytest.mark.dist

# Number of different sets of dropped units in each loop, of two samples of the perturbation and two of the parameters.
SETS = {"independent": (2 * 2, 2 * 2), "frozen": (1, 2), "off": (1, 2 * 2)}


@pytest.fixture(scope="module", params=[*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3)), 2], ids="{} ranks".format)
def shares(request):
    report = run_ranks("tests.workers.sharding", request.param)
    assert report.keys() == (
        {f"{what} {layout}" for what in ("inert", "mixture") for layout in named("{} zero-{}", PRECISIONS, STAGES, of=2)}
        | named("dropped {} zero-{}", SETS, STAGES)
        | named("predictions zero-{}, {} at a time", (2, 3), (1, 4, 30))
    )
    return request.param, report


def test_the_mixture_is_sharded_over_the_ranks(shares):
    ranks, report = shares
    for name, sizes in report.items():
        if name.startswith("mixture"):
            own, whole, needed = sizes
            copies = ranks if name.endswith("zero-0") else 1
            # Alignment pads each shard by a few elements.
            assert needed * copies <= whole <= 1.02 * needed * copies, name
            assert own <= 1.02 * needed * copies / ranks, name


def test_the_sampler_changes_nothing_until_it_is_armed(shares):
    assert [name for name, inert in shares[1].items() if name.startswith("inert") and not inert] == []


@pytest.mark.parametrize("loop", SETS)
def test_passes_drop_the_same_units_at_every_stage_only_where_the_method_asks_for_it(loop, shares):
    for stage in range(4):
        loops = shares[1][f"dropped {loop} zero-{stage}"]
        assert tuple(sets for sets, _ in loops) == SETS[loop]
        assert [most > 0.1 for _, most in loops] == [loop != "off", True] and (loop != "off" or loops[0][1] == 0)


def test_each_example_is_predicted_once_and_in_order(shares):
    found = {name: right for name, right in shares[1].items() if name.startswith("predictions")}
    assert all(found.values()), found


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids="{} ranks".format)
def resumed(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    return request.param, folder, run_ranks("tests.workers.resuming", request.param, str(folder))


def test_an_interrupted_run_is_bit_identical_at_every_stage_and_precision(resumed):
    report = resumed[2]
    layouts = named("{} zero-{}", PRECISIONS, STAGES) | named("offload zero-{}", (2, 3))
    layouts |= named("uneven fp32 zero-{}", (1, 2, 3)) | {"uneven bf16 zero-2", "uneven fp16 zero-3"}
    assert report.keys() == layouts | {"pruning"}
    assert [name for name, same in report.items() if not same] == []


def test_a_run_continues_with_any_number_of_ranks_and_any_zero_stage(resumed):
    before, folder, _ = resumed
    for ranks in {1: (2,), 2: (1, 4)}[before]:
        report = run_ranks("tests.workers.reshaping", ranks, str(folder), str(before))
        assert report.keys() == {f"{name}, zero-{saved} to zero-{now}" for name, saved, now in continued(ranks)}
        # The effect of the order of sums after two steps; in half precision also that of rounded working copies.
        bounds = {name: 1e-4 if "fp32" in name else 5e-2 for name in report}
        assert not {name: far for name, far in report.items() if not far <= bounds[name]}, (before, ranks)
