"""`method.chains`: how many there are, and what is refused before ranks connect."""

import pytest

from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_count, chain_problems
from mat_ds.runs.options import RunConfig

EIGHT = World(size=8, local_size=4)


def run(chains):
    return RunConfig.model_validate({"method": {"name": "mat", "chains": chains}})


@pytest.mark.parametrize("asked, count", [("one", 1), ("per_node", 2), ("per_rank", 8), (4, 4)])
def test_the_number_of_chains_follows_from_the_ranks(asked, count):
    assert chain_count(run(asked), EIGHT) == count and not list(chain_problems(run(asked), EIGHT))


@pytest.mark.parametrize(
    "asked, world, said",
    [
        (3, EIGHT, "does not divide the 8 ranks of this run; take one of 1, 2, 4, 8"),
        ("per_node", World(size=6, local_size=4), "6 ranks are not a multiple of the 4 here"),
    ],
)
def test_what_cannot_be_divided_is_refused(asked, world, said):
    (problem,) = chain_problems(run(asked), world)
    assert problem.key == "method.chains" and said in f"{problem.reason}; {problem.fix}"


def test_one_chain_is_no_question():
    assert not list(chain_problems(run(1), EIGHT)) and not list(chain_problems(run("one"), World(size=3)))
    vanilla = RunConfig.model_validate({"method": {"name": "vanilla"}})
    assert chain_count(vanilla, EIGHT) == 1 and not list(chain_problems(vanilla, EIGHT))
