"""Whenever a process dies or a disk fails, no completed save is lost, and no half-written file counts as complete.

The fault is produced in turn at every call that changes the disk: in exports, saves, `latest`, pruning and resuming.
"""

import shutil
from contextlib import suppress

import pytest

from mat_ds.engine import checkpoint
from mat_ds.engine.export import export_model
from mat_ds.errors import Displaced, SaveError, UserError
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.storage.checkpoints import checkpoints_of, name_of
from mat_ds.storage.integrity import verify_checkpoint
from mat_ds.storage.rundir import RunDirectory
from tests.support.failing_disk import Disk, KilledError
from tests.support.small_engine import SmallEngine, Tokenizer, one_rank

FAULTS = ("killed", "torn", "ENOSPC", "EIO")
# (saved step, value exported and saved): a run that continues, goes back a step, and saves the same steps again.
ACTS = ((3, 3), (2, 4), (3, 5), (4, 6))
KEPT = 1


@pytest.fixture(scope="module", autouse=True)
def ranks():
    with one_rank():
        yield


def act(run, engine, step, value, **options):
    """Exports the model, as after an evaluation with the best score so far, and saves a checkpoint."""
    engine.fill(value)
    export_model(engine, Tokenizer(), run.model, **options)
    state = {"step": step, "value": value}
    checkpoint.save(engine, run.checkpoints, state, keep_last=2, model=run.model, best=KEPT, **options)


def begun(path):
    run, engine = RunDirectory(path), SmallEngine()
    on_rank_zero(run.create)
    for step, value in ((KEPT, 1), (2, 2)):
        act(run, engine, step, value)
    return run


def live(run, returned):
    """Makes all of `ACTS`; `returned` gets the value of each completed save."""
    engine = SmallEngine()
    for step, value in ACTS:
        act(run, engine, step, value)
        returned.append(value)


def resume(run):
    """The state from which a new process continues, and the checkpoints that it skipped."""
    engine = SmallEngine()
    on_rank_zero(run.create)
    state, passed_over = checkpoint.load_checkpoint(engine, checkpoints_of(run.path), run.model)
    assert engine.value == state["value"]
    return state, passed_over


def restart(run):
    """Like `resume`, and checks that the exported model belongs to the state."""
    state, passed_over = resume(run)
    assert set((run.model / "model.safetensors").read_bytes()) == {state["value"]} and (run.model / "config.json").exists()
    return state["value"], passed_over


def check(run, allowed, where):
    """Checks that a run continues from an allowed value, that nothing in it is half-written, and that its next save works."""
    value, passed_over = restart(run)
    assert value in allowed and not passed_over, (where, value, allowed, passed_over)
    every = checkpoints_of(run.path, beyond_latest=True)
    assert [verify_checkpoint(path) for path in every] == [None] * len(every) and every[-1].name == name_of(KEPT), where
    act(run, SmallEngine(), 9, 9)
    assert restart(run)[0] == 9, where
    assert {path.name for path in run.path.iterdir()} == {"checkpoints", "model", "plots", "predictions"}, where
    assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".")], where


def moments(total, every, first):
    """The numbers of the calls at which the fault is produced: all, or every `every`-th."""
    return range(1 + first % every, total + 1, every)


def lives(folder, fault, every):
    before = begun(folder / "before").path
    counting = Disk()
    with counting.failing():
        live(RunDirectory(shutil.copytree(before, folder / "counted")), [])
    assert counting.count > 200 and {"save_file", "rename", "replace", "write", "rmdir"} <= set(counting.calls)
    for at in moments(counting.count, every, FAULTS.index(fault)):
        run, returned, disk = RunDirectory(shutil.copytree(before, folder / "run")), [2], Disk(at, fault)
        where = f"call {at}, {counting.calls[at - 1]}"
        with disk.failing(), suppress(KilledError, SaveError):
            live(run, returned)
        under_way = next((value for _, value in ACTS if value > returned[-1]), None)
        check(run, {returned[-1], under_way}, where)
        shutil.rmtree(run.path)


def restarts(folder, fault, every):
    before = begun(folder / "before").path
    # What a process leaves that dies between the two renames that replace a checkpoint or a model.
    (before / "checkpoints" / name_of(2)).rename(before / "checkpoints" / f".{name_of(2)}.0123abcd.old")
    (before / "model").rename(before / ".model.0123abcd.old")
    counting = Disk()
    with counting.failing():
        resume(RunDirectory(shutil.copytree(before, folder / "counted")))
    assert counting.count > 20 and "rename" in counting.calls
    for at in moments(counting.count, every, FAULTS.index(fault)):
        run, disk = RunDirectory(shutil.copytree(before, folder / "run")), Disk(at, fault)
        where = f"call {at}, {counting.calls[at - 1]}"
        with disk.failing(), suppress(KilledError, SaveError, UserError):
            state, passed_over = resume(run)
            assert state["value"] == 2 or passed_over, where
        check(run, {2}, where)
        shutil.rmtree(run.path)


@pytest.mark.parametrize("fault", FAULTS)
def test_no_completed_save_is_lost_at_some_of_the_calls(fault, tmp_path):
    lives(tmp_path, fault, every=47)
    restarts(tmp_path / "restarts", fault, every=13)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_no_completed_save_is_lost_at_any_call(fault, tmp_path):
    lives(tmp_path, fault, every=1)
    restarts(tmp_path / "restarts", fault, every=1)


def test_a_displaced_job_changes_nothing_more(tmp_path):
    """The check fails in turn at each of its calls. Complete files from before may exist, and nothing from after it."""
    before = begun(tmp_path / "before").path

    def life(run, allowed):
        asked = []

        def still_ours():
            asked.append(sorted(path.name for path in run.checkpoints.iterdir()))
            if len(asked) > allowed:
                raise Displaced("another job uses it")

        act(run, SmallEngine(), 2, 7, still_ours=still_ours)
        return asked

    total = len(life(RunDirectory(shutil.copytree(before, tmp_path / "counted")), 99))
    assert total >= 6
    for allowed in range(total):
        run = RunDirectory(shutil.copytree(before, tmp_path / "run"))
        with pytest.raises(Displaced):
            life(run, allowed)
        check(run, {2, 7}, allowed)
        shutil.rmtree(run.path)
