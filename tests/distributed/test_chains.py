"""Several chains of the parameters: what each draws and what they come to is as defined, and little moves between them.

The measure is that of `test_exactness`.
"""

import pytest

from tests.support.expected import STAGES, named
from tests.support.launch import run_ranks
from tests.workers.worker import LR

pytestmark = pytest.mark.dist

LOCAL = ("crossing before", "apart", "resumed between meetings", "one chain from two apart", "exported")


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{} ranks".format)
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    report = run_ranks("tests.workers.chains", request.param, "fp32", str(folder))
    each = ("crossing", "resumed", "one chain from two", "spoilt", *LOCAL)
    assert report.keys() == named("oracle: {} zero-{}", [*LR, "local"], STAGES) | named("{} zero-{}", each, STAGES) | {
        "data parallel: mat",
        "data parallel: vanilla",
        "oracle: averaged moments",
    }
    return report


def test_two_chains_end_where_the_oracle_ends_at_every_stage_and_update_rule(found):
    distances = {name: far for name, far in found.items() if name.startswith("oracle")}
    assert not {name: far for name, far in distances.items() if not far <= 1e-3}


def test_local_sgd_sends_nothing_but_means_of_losses_before_its_chains_meet(found):
    """A few numbers go over all ranks: whether losses are finite."""
    assert max(elements for name, elements in found.items() if name.startswith("crossing before")) <= 16


def test_between_two_meetings_chains_are_apart_and_are_saved_so_and_alone_their_mean_goes_on(found):
    assert [name for name, right in found.items() if name.startswith(LOCAL[1:]) and not right] == []


def test_four_bytes_a_parameter_are_given_to_the_other_chain_once_per_outer_step(found):
    """In a ring, an all-reduce among two sends and receives what it is given: eight bytes a parameter in all."""
    for name, counts in found.items():
        if name.startswith("crossing zero"):
            elements, masters = counts
            # Besides, the means of the losses, and two flags, go over all ranks.
            assert masters <= elements <= masters + 16, name


def test_a_run_goes_on_bit_for_bit_with_the_moments_of_each_chain_and_also_without_chains(found):
    assert [name for name, same in found.items() if name.startswith(("resumed", "one chain")) and not same] == []


def test_a_loss_that_is_not_finite_in_one_chain_ends_the_step_on_every_rank(found):
    assert [name for name, all_raised in found.items() if name.startswith("spoilt") and not all_raised] == []


def test_chains_of_one_plain_step_are_data_parallelism(found):
    assert max(found["data parallel: mat"], found["data parallel: vanilla"]) <= 1e-5
