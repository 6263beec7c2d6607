"""With any byte of its files changed, or any file missing, a run continues from an intact checkpoint or names the fault."""

import os
import shutil

import pytest

from mat_ds import cli
from mat_ds.errors import ExitCode
from mat_ds.storage.checkpoints import LATEST, name_of
from mat_ds.storage.integrity import MANIFEST, STATE, verify_checkpoint
from tests.support.small_engine import one_rank
from tests.support.small_run import goes_on, newest, small_run

# No pattern turns white space into other white space, or a digit into another digit.
PATTERNS = (0x01, 0x20, 0x80, 0xFF)
SEVENTH = f"checkpoints/{name_of(7)}"
IN_CHECKPOINT = (f"{SEVENTH}/{MANIFEST}", f"{SEVENTH}/{STATE}", f"{SEVENTH}/rank-00000-0.safetensors")


@pytest.fixture(scope="module", autouse=True)
def ranks():
    with one_rank():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("run") / "run").path


def flipped(path, every):
    """Changes one byte at a time, by each pattern, and restores it; only every `every`-th change is made."""
    whole = path.read_bytes()
    for number, (place, pattern) in enumerate((place, pattern) for place in range(len(whole)) for pattern in PATTERNS):
        if number % every == 0:
            torn = bytearray(whole)
            torn[place] ^= pattern
            path.write_bytes(torn)
            yield f"byte {place} of {path.name}: {whole[place : place + 1]!r} -> {bytes(torn[place : place + 1])!r}"
    path.write_bytes(whole)


def flip_checkpoints(run, every):
    for name in IN_CHECKPOINT:
        for what in flipped(run / name, every):
            found = verify_checkpoint(run / SEVENTH)
            value, told = goes_on(run)
            assert found and value == 3 and f"{SEVENTH} is damaged: {found}" in told, (what, found, value, told)


def flip_latest(run, every):
    for what in flipped(run / "checkpoints" / LATEST, every):
        value, told = goes_on(run)
        # The changed text may name the other checkpoint, or a step before both.
        assert value in (3, 7) or (value is None and "is earlier than every checkpoint" in told), (what, value, told)


def flip_config(run, every):
    for name in ("config.yaml", "environment.json"):
        for what in flipped(run / name, every):
            value, told = goes_on(run)
            # The change may be in an option that may differ when a run continues.
            assert value == 7 or (value is None and "fix:" in told), (what, value, told)


EVERYTHING = {"checkpoints": flip_checkpoints, "latest": flip_latest, "config": flip_config}


@pytest.mark.parametrize("part, every", [("checkpoints", 97), ("latest", 7), ("config", 151)])
def test_a_changed_byte_is_survived_or_reported(run, part, every):
    EVERYTHING[part](run, every)


@pytest.mark.slow
@pytest.mark.parametrize("part", EVERYTHING)
def test_every_changed_byte_is_survived_or_reported(run, part):
    EVERYTHING[part](run, 1)


def test_every_file_may_be_missing(run, tmp_path):
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
    assert len(files) > 15
    for file in files:
        copy = shutil.copytree(run, tmp_path / "run")
        (copy / file).unlink()
        value, told = goes_on(copy)
        in_seventh, in_third = str(file).startswith(SEVENTH), str(file).startswith(f"checkpoints/{name_of(3)}")
        if str(file) == "config.yaml":
            assert value is None and "config.yaml" in told and name_of(7) in told
        elif in_seventh:
            assert value == 3 and f"{SEVENTH} is damaged" in told and verify_checkpoint(copy / SEVENTH)
        else:
            assert value == 7 and not told, (file, told)
            assert in_third == bool(verify_checkpoint(copy / "checkpoints" / name_of(3)))
        shutil.rmtree(copy)


ODD = {
    "a pipe": os.mkfifo,
    "a folder": os.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(os.urandom(3000)),
}


@pytest.mark.parametrize("what", ODD)
def test_pipes_are_not_waited_for_and_links_not_followed(run, tmp_path, what, capsys):
    for name in (
        *IN_CHECKPOINT,
        f"{SEVENTH}/model/model.safetensors",
        f"checkpoints/{LATEST}",
        "config.yaml",
        "environment.json",
    ):
        copy = shutil.copytree(run, tmp_path / "run")
        (copy / name).unlink()
        ODD[what](copy / name)
        value, told = goes_on(copy)
        code = cli.main(["verify", str(copy)])
        out = capsys.readouterr().out
        if name.startswith(SEVENTH):
            assert value == 3 and "is damaged" in told and code == ExitCode.FAILED and f"{name_of(7)}" in out, (name, told)
        else:
            assert code == ExitCode.OK and (value == 7 if name.endswith(LATEST) else value is None and "fix:" in told), (
                name,
                told,
            )
        shutil.rmtree(copy)


def test_a_model_folder_behind_a_link_does_not_count_as_part_of_a_checkpoint(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / SEVENTH / "model").rename(tmp_path / "elsewhere")
    (copy / SEVENTH / "model").symlink_to(tmp_path / "elsewhere")
    assert "model/config.json is missing or cannot be read" in verify_checkpoint(copy / SEVENTH) and goes_on(copy)[0] == 3


def test_foreign_files_in_a_checkpoint_are_not_copied(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / SEVENTH / "model" / "modeling.py").write_text("raise SystemExit")
    os.mkfifo(copy / SEVENTH / "model" / "pipe")
    assert verify_checkpoint(copy / SEVENTH) is None and goes_on(copy) == (7, "")
    assert sorted(path.name for path in (copy / "model").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_disk_that_is_missing_is_not_taken_for_a_run_without_checkpoints(run, tmp_path):
    for plant in (lambda path: path.symlink_to(tmp_path / "unmounted"), lambda path: path.write_text("")):
        copy = shutil.copytree(run, tmp_path / "run")
        shutil.rmtree(copy / "checkpoints")
        plant(copy / "checkpoints")
        value, told = goes_on(copy)
        assert value is None and "checkpoints" in told and "cannot be read" in told
        assert cli.main(["verify", str(copy)]) == ExitCode.USER_ERROR
        shutil.rmtree(copy)
    assert newest(run).name == name_of(7)
