"""`method.chains`: how many there are, and what is refused before ranks connect."""

import pytest

from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_count, chain_problems
from mat_ds.runs.options import RunConfig
from mat_ds.runs.steps import meets_after, snapshot_points, snapshot_problems

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


def local(**options):
    given = {"method": {"name": "vanilla", "chains": "per_rank"}, "train": {"local_steps": 16}, **options}
    return RunConfig.model_validate(given)


def test_chains_meet_after_so_many_steps_and_after_the_last():
    assert [step for step in range(1, 41) if meets_after(local(), step, 40)] == [16, 32, 40]
    assert not list(chain_problems(local(), EIGHT))


@pytest.mark.parametrize(
    "options, key, said",
    [
        ({"method": {"name": "vanilla"}}, "train.local_steps", "this run has one"),
        ({"method": {"name": "vanilla", "chains": 1}}, "train.local_steps", "this run has one"),
        ({"method": {"name": "freelb"}}, "train.local_steps", "with one of freeat, mat, vanilla"),
        ({"sampling": {"temperature": 1.0}}, "sampling.temperature", "an average is no sample"),
        ({"sampling": {"cycles": 2}}, "sampling.cycles", "need not meet there"),
    ],
)
def test_what_means_nothing_with_chains_or_without_is_refused(options, key, said):
    (problem,) = chain_problems(local(**options), EIGHT)
    assert problem.key == key and said in f"{problem.reason}; {problem.fix}"


@pytest.mark.parametrize(
    "snapshots, chains, key, said",
    [
        (8, "one", "train.snapshots_of", "this run has one"),
        (0, "per_node", "train.snapshots_of", "pass train.snapshots=2"),
        (7, "per_node", "train.snapshots", "a multiple of 2"),
    ],
)
def test_snapshots_of_chains_that_cannot_be_are_refused(snapshots, chains, key, said):
    run = local(train={"snapshots": snapshots, "snapshots_of": "chains"}, method={"name": "vanilla", "chains": chains})
    (problem,) = chain_problems(run, EIGHT)
    assert problem.key == key and said in f"{problem.reason}; {problem.fix}"


def test_each_chain_has_a_member_at_a_step():
    run = local(train={"snapshots": 8, "snapshots_of": "chains", "max_steps": 8})
    assert snapshot_points(run, 8, 2) == [5, 6, 7, 8] and not list(snapshot_problems(run, 10**4, 2))
    assert snapshot_points(run, 8, 8) == [8]


def test_snapshots_are_kept_where_chains_meet_and_more_than_there_are_meetings_are_refused():
    run = local(train={"local_steps": 16, "snapshots": 3, "max_steps": 64})
    assert snapshot_points(run, 64) == [48, 64]
    (problem,) = snapshot_problems(run, 10**4)
    assert problem.key == "train.snapshots" and "the chains meet every 16" in problem.reason


@pytest.mark.parametrize("method", ["mat", "vanilla"])
@pytest.mark.parametrize(
    "options, said",
    [
        ({}, "there is one; leave it out, or pass method.chains=per_node"),
        ({"chains": 1}, "there is one"),
        ({"chains": 2, "chains_moments": "average"}, "does not reach the moments"),
    ],
)
def test_compression_of_what_is_not_sent_is_refused(method, options, said):
    (problem,) = RunConfig.model_validate(
        {"method": {"name": method, "chains_compression": "int8", **options}}
    ).method.problems()
    assert problem.key == "method.chains_compression" and said in f"{problem.reason}; {problem.fix}"
    good = RunConfig.model_validate({"method": {"name": method, "chains_compression": "int8", "chains": "per_node"}})
    assert not list(good.method.problems())
