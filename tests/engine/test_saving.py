"""Saving checks everything: the ranks' files, the numbers, and the disk."""

import json
import os
import stat

import pytest
import torch

from mat_ds.engine import checkpoint
from mat_ds.engine.export import export_model
from mat_ds.errors import NonFiniteError, SaveError, UserError
from mat_ds.storage.checkpoints import checkpoints_of, name_of
from mat_ds.storage.integrity import STATE, verify_checkpoint
from tests.support.small_engine import SmallEngine, Tokenizer, one_rank


@pytest.fixture(autouse=True)
def ranks():
    with one_rank():
        yield


def save(engine, folder, step):
    return checkpoint.save(engine, folder, {"step": step}, keep_last=2)


def harmed(monkeypatch, harm):
    """Makes `harm` change a rank's files right after they have been written."""
    write = checkpoint.write_state

    def then(engine, folder):
        names = write(engine, folder)
        return harm(folder, names) or names

    monkeypatch.setattr(checkpoint, "write_state", then)


def gone(folder, names):
    (folder / names[0]).unlink()


def elsewhere(folder, names):
    """Adds the file of a rank that writes to another disk."""
    return [*names, "rank-00001-0.safetensors"]


def a_stranger(folder, names):
    (folder / "rank-00007-0.safetensors").write_bytes(b"of another life")


@pytest.mark.parametrize("harm", [gone, elsewhere, a_stranger])
def test_missing_or_foreign_files_make_no_checkpoint(tmp_path, monkeypatch, harm):
    save(SmallEngine(1.0), tmp_path, 1)
    harmed(monkeypatch, harm)
    with pytest.raises(SaveError, match=r"step-00000002 could not be written .*rank-0000"):
        save(SmallEngine(2.0), tmp_path, 2)
    assert [path.name for path in checkpoints_of(tmp_path)] == [name_of(1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", name_of(1)]


def test_a_file_truncated_after_its_rank_read_it_back_makes_no_checkpoint(tmp_path, monkeypatch):
    describe = checkpoint.describe_state

    def then(engine):
        (part,) = tmp_path.glob(".*/rank-00000-0.safetensors")
        part.write_bytes(part.read_bytes()[:50])
        return describe(engine)

    monkeypatch.setattr(checkpoint, "describe_state", then)
    with pytest.raises(SaveError, match="does not see all that was written to rank-00000-0"):
        save(SmallEngine(2.0), tmp_path, 2)
    assert checkpoints_of(tmp_path) == []


def test_a_checkpoint_says_which_ranks_wrote_what(tmp_path):
    save(SmallEngine(1.0), tmp_path, 1)
    engine = json.loads((tmp_path / name_of(1) / STATE).read_text())["engine"]
    assert engine["world_size"] == 1 and engine["files"] == ["rank-00000-0.safetensors"]
    assert engine["elements"] == {"table": 15, "bias": 4} and verify_checkpoint(tmp_path / name_of(1)) is None


@pytest.mark.parametrize(
    "saved, resumed, written, told",
    [
        (1.0, 1.0, {"noise": "cpu"}, False),
        (1.0, 1.0, {"noise": "cuda"}, True),
        (1.0, 1.0, {}, False),  # from an earlier version
        (1.0, 0.0, {"noise": "cuda"}, False),
        (0.0, 1.0, {"noise": None}, False),
    ],
)
def test_a_change_of_the_device_that_draws_noise_is_reported(tmp_path, monkeypatch, saved, resumed, written, told):
    describe = checkpoint.describe_state
    own = describe(SmallEngine(1.0, noise=saved))
    assert own["noise"] == ("cpu" if saved else None)
    monkeypatch.setattr(
        checkpoint, "describe_state", lambda engine: {key: value for key, value in own.items() if key != "noise"} | written
    )
    save(SmallEngine(1.0, noise=saved), tmp_path, 1)
    _, remarks = checkpoint.load_checkpoint(SmallEngine(0.0, noise=resumed), checkpoints_of(tmp_path))
    assert len(remarks) == told and all("method.theta_noise" in remark and "cuda" in remark for remark in remarks)


@pytest.mark.parametrize("umask", [0o002, 0o027])
def test_a_group_can_read_what_the_umask_lets_it(tmp_path, umask):
    before = os.umask(umask)
    try:
        engine = SmallEngine(1.0)
        export_model(engine, Tokenizer(), tmp_path / "model")
        checkpoint.save(engine, tmp_path / "checkpoints", {"step": 1}, 2, tmp_path / "model")
        checkpoint.load_checkpoint(engine, checkpoints_of(tmp_path), tmp_path / "model")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


def test_a_folder_in_place_of_latest_is_set_aside(tmp_path):
    save(SmallEngine(1.0), tmp_path, 1)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest" / "of a stranger").mkdir(parents=True)
    save(SmallEngine(2.0), tmp_path, 2)
    assert (tmp_path / "latest").read_text() == "step-00000002\n" and (tmp_path / "latest.damaged" / "of a stranger").is_dir()


IN_THE_PLACE = {
    "a file": lambda path, other: path.write_text("keep"),
    "a pipe": lambda path, other: os.mkfifo(path),
    "a link to a folder": lambda path, other: path.symlink_to(other),
    "a link to nothing": lambda path, other: path.symlink_to("nothing"),
    "a link to itself": lambda path, other: path.symlink_to(path.name),
}


@pytest.mark.parametrize("what", IN_THE_PLACE)
def test_a_file_or_folder_with_the_name_of_a_new_checkpoint_is_set_aside(tmp_path, what):
    folder, other = tmp_path / "checkpoints", tmp_path / "other"
    other.mkdir()
    (other / "keep").write_text("keep")
    save(SmallEngine(1.0), folder, 1)
    IN_THE_PLACE[what](folder / name_of(2), other)
    before = (folder / name_of(2)).lstat()
    save(SmallEngine(2.0), folder, 2)
    kept = folder / f"{name_of(2)}.damaged" / name_of(2)
    assert verify_checkpoint(folder / name_of(2)) is None and not (folder / name_of(2)).is_symlink()
    assert (kept.lstat().st_ino, stat.S_IFMT(kept.lstat().st_mode)) == (before.st_ino, stat.S_IFMT(before.st_mode))
    assert [path.name for path in other.iterdir()] == ["keep"] and len(checkpoints_of(folder)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["theta", "first_moment", "average"])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, kind, value):
    save(SmallEngine(1.0), tmp_path, 1)
    engine = SmallEngine(2.0)
    master = list(engine.shards.slices)[1]
    kept = engine.sampler.kept(master)
    assert len(kept) == 3 and "average" in kept
    tensor = {"theta": master.detach(), "average": kept["average"]}.get(kind, next(iter(kept.values())))
    tensor.view(-1)[3] = value
    for refuse in (lambda: engine.check(None), lambda: save(engine, tmp_path, 2)):
        with pytest.raises(NonFiniteError, match="not finite"):
            refuse()
    assert [path.name for path in checkpoints_of(tmp_path)] == [name_of(1)]


def test_a_failed_export_of_the_average_restores_the_weights():
    """With `train.on_save_failure=continue` training continues with them."""
    engine = SmallEngine(1.0)
    for master in engine.shards.slices:
        engine.sampler.kept(master)["average"].fill_(5.0)
    with pytest.raises(SaveError), engine.averaged_weights("average"):
        assert {float(x) for master in engine.shards.slices for x in master.detach().view(-1)} == {5.0}
        raise SaveError("no room")
    assert {float(x) for master in engine.shards.slices for x in master.detach().view(-1)} == {1.0}


def test_large_numbers_count_as_finite_and_padding_is_ignored(tmp_path):
    engine = SmallEngine(3e38)
    engine.check(None)
    flat = torch.full((20,), float("nan"))
    flat[2:6] = 1.0
    (first, *_), (_, *pieces) = engine.shards.slices.values(), engine.shards.slices.values()
    engine.sampler.arm({flat: [type(first[0])(0, 4, 0, 2, 4, 0)]}, engine.device)
    engine.check(None)
    assert pieces is not None


def test_a_step_saved_again_while_another_process_reads_is_there_once_and_intact(tmp_path, monkeypatch):
    """A reader between the two renames puts the old checkpoint back."""
    save(SmallEngine(1.0), tmp_path, 1)
    rename, looked = checkpoint.folders.os.rename, []

    def then(source, target):
        rename(source, target)
        if str(target).endswith(".old"):
            looked.append(len(checkpoints_of(tmp_path)))
            if len(looked) == 3:
                monkeypatch.setattr(checkpoint.folders.os, "rename", rename)

    monkeypatch.setattr(checkpoint.folders.os, "rename", then)
    save(SmallEngine(2.0), tmp_path, 1)
    engine = SmallEngine()
    checkpoint.load_checkpoint(engine, checkpoints_of(tmp_path))
    assert looked and set(looked) == {1} and engine.value == 2.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", name_of(1)]


def test_a_checkpoint_with_trained_values_of_what_is_frozen_now_is_refused(tmp_path):
    save(SmallEngine(1.0), tmp_path, 1)
    engine = SmallEngine(2.0)
    engine.ds.module.bias.requires_grad_(False)
    with pytest.raises(UserError, match="trained values of bias, which this run freezes"):
        checkpoint.load_checkpoint(engine, checkpoints_of(tmp_path))
    assert engine.value == 2.0
