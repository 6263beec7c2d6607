"""Finding checkpoints, verifying them, and deleting old ones."""

import json

import pytest

from mat_ds import cli
from mat_ds.errors import ExitCode
from mat_ds.storage.checkpoints import checkpoints_of, name_of, prune
from mat_ds.storage.disk import write_json
from mat_ds.storage.integrity import MANIFEST, entry_of, files_below, verify_checkpoint


def written(folder, step, latest=False):
    checkpoint = folder / name_of(step)
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "state.json", {"step": step})
    (checkpoint / "rank-00000-0.safetensors").write_bytes(bytes(range(100)))
    write_json(checkpoint / MANIFEST, {name: entry_of(checkpoint / name) for name in files_below(checkpoint)})
    if latest:
        (folder / "latest").write_text(checkpoint.name + "\n")
    return checkpoint


def steps(paths):
    return [int(path.name.removeprefix("step-")) for path in paths]


@pytest.mark.parametrize(
    "harm, told",
    [
        (lambda c: None, None),
        (lambda c: (c / "rank-00000-0.safetensors").unlink(), "rank-00000-0.safetensors is missing"),
        (lambda c: (c / "rank-00000-0.safetensors").write_bytes(b"short"), "has 5 bytes, not 100"),
        (lambda c: (c / "rank-00000-0.safetensors").write_bytes(bytes(100)), "does not hold what was written"),
        (lambda c: (c / MANIFEST).unlink(), "no manifest"),
        (lambda c: (c / MANIFEST).write_text("{"), "no manifest"),
        (lambda c: (c / MANIFEST).write_text("[]"), "no manifest"),
        (lambda c: (c / MANIFEST).write_bytes(b"\xff"), "no manifest"),
    ],
)
def test_any_changed_byte_differs_from_the_manifest(tmp_path, harm, told):
    checkpoint = written(tmp_path, 3)
    harm(checkpoint)
    found = verify_checkpoint(checkpoint)
    assert (found is None) == (told is None) and (told or "") in (found or "")


def test_a_run_continues_from_latest_or_from_the_newest_checkpoint_without_it(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (2, 4, 10):
        written(folder, step)
    (folder / "step-00000012.damaged").mkdir()
    (folder / ".writing").mkdir()
    for latest, expected in (
        ("step-00000010", [10, 4, 2]),
        ("step-00000004", [4, 2]),
        ("step-00000007", [4, 2]),
        ("nonsense", [10, 4, 2]),
        ("", [10, 4, 2]),
    ):
        (folder / "latest").write_text(latest)
        assert steps(checkpoints_of(tmp_path / "run")) == steps(checkpoints_of(folder)) == expected, latest
    (folder / "latest").unlink()
    assert steps(checkpoints_of(tmp_path / "run")) == [10, 4, 2]
    assert checkpoints_of(folder / "step-00000002") == [folder / "step-00000002"]
    assert checkpoints_of(tmp_path) == checkpoints_of(tmp_path / "nowhere") == []


def test_mat_ds_verify_distinguishes_intact_from_damaged_checkpoints(tmp_path, capsys):
    for step in (2, 4, 6):
        written(tmp_path / "run" / "checkpoints", step)
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-00000004")
    assert cli.main(["verify", str(tmp_path / "run")]) is ExitCode.OK
    assert "3 of 3 are whole" in capsys.readouterr().out
    (tmp_path / "run" / "checkpoints" / name_of(4) / "state.json").write_text("{}")
    assert cli.main(["verify", str(tmp_path / "run")]) is ExitCode.FAILED
    out = capsys.readouterr().out
    assert "step-00000004        0.0 MiB  DAMAGED: state.json has 2 bytes" in out and "2 of 3" in out
    assert cli.main(["verify", "--json", str(tmp_path / "run")]) is ExitCode.FAILED
    found = json.loads(capsys.readouterr().out)
    assert {name: bool(damage) for name, damage in found["checkpoints"].items()} == {
        name_of(6): False,
        name_of(4): True,
        name_of(2): False,
    }
    assert cli.main(["verify", str(tmp_path / "run" / "checkpoints" / name_of(2))]) is ExitCode.OK
    for wrong in ([], [str(tmp_path / "nowhere")], [str(tmp_path), "more"]):
        assert cli.main(["verify", *wrong]) is ExitCode.USER_ERROR
    assert "has no checkpoint" in capsys.readouterr().err


def test_the_last_k_and_the_best_are_kept_and_damaged_or_later_ones_not_deleted(tmp_path):
    for step in (1, 2, 3, 4, 5, 9):
        written(tmp_path, step)
    (tmp_path / name_of(1) / "rank-00000-0.safetensors").unlink()
    prune(tmp_path, newest=5, keep_last=2, best=3)
    assert steps(sorted(tmp_path.iterdir())) == [1, 3, 4, 5, 9]
    prune(tmp_path, newest=5, keep_last=2, best=None)
    assert steps(sorted(tmp_path.iterdir())) == [1, 4, 5, 9]
