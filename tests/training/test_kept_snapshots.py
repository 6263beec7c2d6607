"""`train.snapshots`: which steps are kept, what a run that goes on does with them, and what a full disk does."""

from types import SimpleNamespace

import pytest

from mat_ds.artifacts.members import keep_only, listed, member_names
from mat_ds.errors import SaveError
from mat_ds.runs.options import RunConfig
from mat_ds.runs.steps import snapshot_points, snapshot_problems
from mat_ds.storage.checkpoints import checkpoints_of
from mat_ds.storage.progress import Progress
from mat_ds.tasks.registry import TASKS
from tests.support.small_engine import one_rank
from tests.training.test_loop_exports import loop
from tests.training.test_snapshots import snapshots


@pytest.fixture(autouse=True)
def alone():
    with one_rank():
        yield


def run(count, **train):
    return RunConfig.model_validate({"train": {"snapshots": count, **train}})


@pytest.mark.parametrize(
    "count, total, points", [(0, 9, []), (1, 9, [9]), (2, 8, [6, 8]), (4, 100, [62, 75, 88, 100]), (3, 6, [4, 5, 6])]
)
def test_snapshots_are_spread_evenly_over_the_last_half_and_end_with_the_run(count, total, points):
    assert snapshot_points(run(count), total) == points


def test_more_snapshots_than_steps_are_refused_before_training():
    assert not [*snapshot_problems(run(3, max_steps=6), 320)]
    (problem,) = snapshot_problems(run(4, max_steps=6), 320)
    assert problem.key == "train.snapshots" and "6 outer steps" in problem.reason


def looped(steps, refused=(), settled=True, **more):
    """A loop of 8 steps of which 6 and 8 are kept; `settled`: whether the snapshot of its first step is there."""
    kept, asked = [], []

    def keep(step):
        if step in refused:
            raise SaveError("no room")
        kept.append(step)

    members = {"keep": keep, "settle": lambda points, step: asked.append((list(points), step)) or settled}
    progress = Progress(step=steps)
    train, _, told = loop([0.1] * 9, (), steps=8, snapshots=2, eval_per_epoch=0, progress=progress, members=members, **more)
    return train, kept, asked, told


@pytest.mark.parametrize(
    "steps, settled, kept", [(0, True, [6, 8]), (6, True, [8]), (6, False, [6, 8]), (7, False, [8]), (8, False, [8])]
)
def test_a_run_that_goes_on_keeps_what_is_still_missing(steps, settled, kept):
    train, found, asked, _ = looped(steps, settled=settled)
    train()
    assert found == kept and asked == [([6, 8], steps)]


def test_a_snapshot_without_room_ends_the_run_or_is_left_out():
    train, kept, _, told = looped(0, refused=(6,))
    train()
    assert kept == [8] and "goes on without" in told.warnings[0]
    with pytest.raises(SaveError):
        looped(0, refused=(6,), choice="stop")[0]()


def test_snapshots_hold_the_parameters_and_are_dropped_when_the_chain_is_run_again(tmp_path):
    found = snapshots(tmp_path, "raw")
    object.__setattr__(found, "data", SimpleNamespace(
        examples=SimpleNamespace(spec=TASKS["cola"]), tokenizer=found.data.tokenizer, max_length=8
    ))  # fmt: skip
    for step in (2, 4, 6):
        found.engine.fill(step)
        found.keep(step)
    here = listed(tmp_path / "snapshots")
    assert [set((path / "model.safetensors").read_bytes()) for path in here.values()] == [{2}, {4}, {6}]
    assert all((path / "tokenizer.json").exists() and (path / "mat_ds.json").exists() for path in here.values())
    # A process died between the two renames of a snapshot, and while it wrote another.
    here["step-00000004"].rename(here["step-00000004"].with_name(".step-00000004.01234567.old"))
    (tmp_path / "snapshots" / ".step-00000008.01234567.part").mkdir()
    assert found.settle((4, 6, 8), 4)
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == ["step-00000004"]
    assert not found.settle((4, 6, 8), 6)


def test_a_run_in_a_new_folder_takes_its_snapshots_along(tmp_path):
    one, other = snapshots(tmp_path / "one", "raw"), snapshots(tmp_path / "other", "raw")
    for each in (one, other):
        object.__setattr__(each, "run", run(2))
        spec = SimpleNamespace(spec=TASKS["cola"])
        object.__setattr__(each, "data", SimpleNamespace(examples=spec, tokenizer=one.data.tokenizer, max_length=8))
    one.keep(3)
    one.save(Progress(step=3))
    other.restore(checkpoints_of(tmp_path / "one"))
    assert [*listed(tmp_path / "other" / "snapshots")] == ["step-00000003"] == [*listed(tmp_path / "one" / "snapshots")]


def test_members_of_chains_are_listed_in_the_order_of_steps_and_chains(tmp_path):
    names = [*member_names(4, 11), *member_names(12, 2), *member_names(14)]
    for name in [*reversed(names), "step-00000004-chain-", "step-00000004-chain-x", "step-4-chain-0"]:
        (tmp_path / name).mkdir()
    assert [*listed(tmp_path)] == names and names[10] == "step-00000004-chain-10"
    keep_only(tmp_path, {12})
    assert [*listed(tmp_path)] == member_names(12, 2)
