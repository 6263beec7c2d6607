"""Writing and reading files that others may have left or write too: files are complete or absent, and links not followed."""

import errno
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from mat_ds.errors import SaveError, UserError
from mat_ds.storage.disk import open_aside, write_json, write_text
from mat_ds.storage.folders import restore, write_folder
from mat_ds.storage.reading import load_json, read_bytes
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.mirrored import own_id, read_tracking


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o002, 0o022, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_mode_of_the_umask_whichever_function_wrote_them(tmp_path, umask):
    def fill(aside):
        (aside / "below").mkdir()
        for name in ("weights", "below/config"):
            os.close(os.open(aside / name, os.O_CREAT | os.O_WRONLY, 0o600))

    write_folder(tmp_path / "model", fill)
    write_text(tmp_path / "file", "text")
    with open_aside(tmp_path / "answers") as file:
        file.write("one")
    for name in ("model/weights", "model/below/config", "file", "answers"):
        assert mode(tmp_path / name) == 0o666 & ~umask, name
    assert mode(tmp_path / "model") == 0o777 & ~umask


def test_planted_links_are_not_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    run = tmp_path / "run"
    run.mkdir()
    for name in (".results.json.part", "results.json", ".model.part", ".model.old"):
        (run / name).symlink_to(outside / "file")
    (run / "model").symlink_to(outside)
    write_json(run / "results.json", {"x": 1})
    write_folder(run / "model", lambda aside: (aside / "file").write_text("ours"))
    restore(run / "nothing")
    assert (outside / "file").read_text() == "theirs" and [path.name for path in outside.iterdir()] == ["file"]
    assert load_json(run / "results.json") == {"x": 1} and not (run / "results.json").is_symlink()
    assert (run / "model" / "file").read_text() == "ours" and not (run / "model").is_symlink()


def test_with_many_writers_the_file_is_that_of_one_of_them(tmp_path):
    path, folder = tmp_path / "file", tmp_path / "folder"
    seen = []

    def write(number):
        write_text(path, str(number) * 10_000)
        write_folder(folder, lambda aside: [(aside / name).write_text(str(number)) for name in "abc"])
        seen.append(set(path.read_text()))

    with ThreadPoolExecutor(6) as several:
        list(several.map(write, [i % 10 for i in range(60)]))
    assert {len(found) for found in seen} == {1}
    assert len({(folder / name).read_text() for name in "abc"}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_failing_disk_is_named_and_the_old_file_is_kept(tmp_path, monkeypatch, refusal):
    write_text(tmp_path / "file", "old")
    write_folder(tmp_path / "folder", lambda aside: (aside / "file").write_text("old"))

    def refuse(_):
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SaveError, match=f"{tmp_path}/file could not be written .*{os.strerror(refusal)}.* MiB are free there"):
        write_text(tmp_path / "file", "new")
    with pytest.raises(SaveError, match=f"{tmp_path}/folder could not be written"):
        write_folder(tmp_path / "folder", lambda aside: (aside / "file").write_text("new"))
    with pytest.raises(SaveError, match=f"{tmp_path}/file could not be written"), open_aside(tmp_path / "file") as file:
        file.write("new")
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_reported_by_a_rust_library_is_a_save_error_and_other_errors_are_not(tmp_path):
    class SerializationError(Exception):
        pass

    def refuse(aside):
        raise SerializationError("I/O error: No space left on device (os error 28)")

    def fail(aside):
        raise OSError("Can't load the configuration of 'base'")

    with pytest.raises(SaveError, match="No space left"):
        write_folder(tmp_path / "model", refuse)
    with pytest.raises(OSError, match="Can't load") as raised:
        write_folder(tmp_path / "model", fail)
    assert not isinstance(raised.value, SaveError) and not list(tmp_path.iterdir())


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x" * 100)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path in (tmp_path / "pipe", tmp_path / "link", tmp_path, tmp_path / "none", "/dev/zero"):
        with pytest.raises(OSError):
            read_bytes(path)
    with pytest.raises(OSError):
        read_bytes(tmp_path / "file", 99)
    assert len(read_bytes(tmp_path / "file", 100)) == 100


TORN = (
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0" * 67, b"[" * 100_000, b"{}", b'{"run_id": 7}', b'{"run_id": ""}',
    b'{"run_id": "a", "run_id": "b"}',
)  # fmt: skip


@pytest.mark.parametrize("text", TORN, ids=range(len(TORN)))
def test_an_unreadable_run_id_is_an_error_and_not_replaced(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.config.write_text("task: demo")
    run.tracking.write_bytes(text)
    for ask in (lambda: own_id(run), lambda: read_tracking(run)):
        with pytest.raises(UserError, match=r"tracking\.json"):
            ask()
    assert run.tracking.read_bytes() == text


def test_a_run_id_that_is_a_link_a_pipe_or_a_folder_is_an_error(tmp_path):
    for number, plant in enumerate((lambda path: path.symlink_to("nowhere"), os.mkfifo, os.mkdir)):
        run = RunDirectory(tmp_path / str(number))
        run.path.mkdir()
        plant(run.tracking)
        with pytest.raises(UserError, match=r"tracking\.json"):
            own_id(run)


def test_processes_that_ask_at_once_get_the_same_run_id(tmp_path):
    for number in range(20):
        run = RunDirectory(tmp_path / str(number))
        with ThreadPoolExecutor(8) as several:
            found = set(several.map(lambda _, run=run: own_id(run), range(8)))
        assert len(found) == 1 and found == {json.loads(run.tracking.read_text())["run_id"]}
        assert [path.name for path in run.path.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize("name", ["checkpoints", "model", "predictions", "plots"])
def test_a_run_does_not_write_into_linked_folders(tmp_path, name):
    (tmp_path / "outside").mkdir()
    for number, plant in enumerate((lambda path: path.symlink_to(tmp_path / "outside"), lambda path: path.touch(), os.mkfifo)):
        run = RunDirectory(tmp_path / str(number))
        run.path.mkdir()
        plant(run.path / name)
        with pytest.raises(UserError, match=f"{name}.*\n.*not a folder of its own"):
            run.create()
    assert not list((tmp_path / "outside").iterdir())
    (tmp_path / "linked").symlink_to(tmp_path / "outside")
    RunDirectory(tmp_path / "linked").create()
    assert (tmp_path / "outside" / "checkpoints").is_dir()


def test_a_run_writes_into_no_pipe_and_through_no_link(tmp_path):
    for number, name in enumerate(("config.yaml", "events.jsonl", "train.log", "results.json", "tracking.log")):
        run = RunDirectory(tmp_path / str(number))
        run.path.mkdir()
        os.mkfifo(run.path / name) if number % 2 else (run.path / name).symlink_to(tmp_path / "outside")
        with pytest.raises(UserError, match=f"{name}.*\n.*not a regular file"):
            run.create()
    assert not (tmp_path / "outside").exists()
