"""Other trackers get the numbers of a run from its event log."""

import os
import sys
from types import ModuleType

import pytest

from mat_ds.cli import main
from mat_ds.errors import ExitCode
from mat_ds.storage.events import read_events
from mat_ds.tracking.mirrored import own_id
from mat_ds.tracking.replay import Moment, moments
from mat_ds.tracking.tensorboard import FILE, crc32c, event_file
from tests.support.tracked import live, make_run

# Written by the package tensorboard 2.21: Event(wall_time=1.5, file_version="brain.Event:2"), then `MOMENTS`.
MOMENTS = [
    Moment(1.5, 300, {"train/loss": 0.25, "eval/accuracy": 1.0}),
    Moment(2.25, 2**40, {"telemetry/cosine": -1e-30}),
]
BYTES = bytes.fromhex(
    "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"
    "3700000000000000e7e8ca5909000000000000f83f10ac022a290a110a0a747261696e2f6c6f7373150000803e0a140a0d6576616c2f6163637572"
    "616379150000803f6a991414"
    "2b00000000000000861bc34b090000000000000240108080808080202a190a170a1074656c656d657472792f636f73696e65156042a28d65c2cd16"
)


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted after step 5, and went on from step 3."""
    made = make_run(tmp_path / "runs" / "one", options={"seed": 1}, experiment="grammar")
    live(made, 1, 5, status=None)
    live(made, 4, 6)
    return made


def test_tensorboards_file_is_what_its_package_writes():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert event_file(MOMENTS) == BYTES
    assert event_file([Moment(0.0, 1, {"x": 1e300})]) == event_file([Moment(0.0, 1, {"x": float("inf")})])


def test_a_run_is_replayed_as_if_it_had_not_been_interrupted(run):
    found = list(moments(run))
    losses = [(moment.step, moment.metrics["train/loss"]) for moment in found if "train/loss" in moment.metrics]
    assert losses == [(step, 1 / step) for step in range(1, 7)]
    assert found[-1].metrics["results/best/score"] == 0.5 and found[-1].time == read_events(run.events)[-1]["time"]
    live(run, 7, 7, status="KILLED")
    assert not any(name.startswith("results/") for moment in moments(run) for name in moment.metrics)


def test_sync_writes_tensorboard_files_of_all_runs_without_its_package_and_twice_is_once(run, tmp_path, capsys):
    other = make_run(tmp_path / "runs" / "two")
    live(other, 1, 1)
    for _ in range(2):
        assert main(["sync", str(tmp_path / "runs"), "--to", "tensorboard"]) == ExitCode.OK
        count = sum(len(moment.metrics) for moment in moments(run))
        assert f"{run.path}: {count} points -> {run.path}/tensorboard" in capsys.readouterr().out
        for one in (run, other):
            assert os.listdir(one.path / "tensorboard") == [FILE]
            assert (one.path / "tensorboard" / FILE).read_bytes() == event_file(moments(one))
    assert not (tmp_path / "runs" / "mlflow.db").exists() and "tensorboard" not in sys.modules


def test_a_folder_that_leads_out_of_a_run_is_not_written_to(run, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (run.path / "tensorboard").symlink_to(tmp_path / "mine")
    assert main(["sync", str(run.path), "--to", "tensorboard"]) == ExitCode.USER_ERROR
    assert "leads out of the run directory" in capsys.readouterr().err and not os.listdir(tmp_path / "mine")


def test_wandb_gets_an_offline_run_with_the_runs_id_steps_and_times(run, monkeypatch, capsys):
    logged, ended = [], []

    class Offline:
        def __init__(self, **options):
            self.options, self.dir = options, str(run.path / "wandb" / f"offline-run-1-{options['id']}" / "files")
            os.makedirs(self.dir)
            ended.append(self)

        def log(self, numbers, step):
            logged.append((step, numbers))

        def finish(self):
            self.finished = True

    fake = ModuleType("wandb")
    fake.init, fake.__spec__ = Offline, sys.__spec__
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):  # the second replaces the first
        assert main(["sync", str(run.path), "--to", "wandb"]) == ExitCode.OK
    (_, offline) = ended
    assert offline.finished and offline.options["mode"] == "offline" and offline.options["id"] == own_id(run)
    assert (offline.options["project"], offline.options["name"]) == ("grammar", "one") and offline.options["config"][
        "seed"
    ] == "1"
    assert logged[len(logged) // 2 :] == [
        (moment.step, {**moment.metrics, "_timestamp": moment.time}) for moment in moments(run)
    ]
    assert f"wandb sync {run.path}/wandb/offline-run-1-{own_id(run)}" in capsys.readouterr().out


def test_without_wandb_or_with_an_address_of_mlflow_nothing_is_written(run, monkeypatch, capsys):
    monkeypatch.setattr("mat_ds.tracking.wandb.find_spec", lambda name: None)
    assert main(["sync", str(run.path), "--to", "wandb"]) == ExitCode.USER_ERROR
    said = capsys.readouterr().err
    assert "`wandb` is not installed" in said and "pip install wandb" in said and not (run.path / "wandb").exists()
    assert main(["sync", str(run.path), "--to", "tensorboard", "--uri", "sqlite:///x.db"]) == ExitCode.USER_ERROR
    assert "--to is tensorboard" in capsys.readouterr().err and not (run.path / "tensorboard").exists()
