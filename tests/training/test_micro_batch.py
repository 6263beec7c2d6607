"""A run without a given micro-batch gets one, the same on every rank, and keeps it."""

import shutil

import pytest

from mat_ds.errors import UserError
from mat_ds.ranks.world import World
from mat_ds.training import run as run_module
from mat_ds.training.run import agreed_micro_batch
from tests.support.run_folders import QUICK, ZERO2, prepare, run_folder


def chosen(*arguments, choice=32, ranks=2):
    """The micro-batch in options, DeepSpeed's configuration and remarks, on a device that would choose `choice`."""
    asked = ["--ds_config", str(ZERO2), *QUICK, *arguments]
    options, *_ = prepare(asked, World(0, ranks, 0, ranks), lambda *_: choice)
    assert options.ds_config["train_micro_batch_size_per_gpu"] == options.run.train.micro_batch_size
    accumulation = options.ds_config["gradient_accumulation_steps"]
    assert accumulation * options.run.train.micro_batch_size * ranks == options.run.train.batch_size
    return options.run.train.micro_batch_size, options.chosen


def test_a_missing_micro_batch_is_chosen_and_kept_when_the_run_continues(tmp_path):
    assert chosen() == (32, True) and chosen("train.micro_batch_size=auto") == (32, True)
    assert chosen("train.micro_batch_size=4") == (4, False)
    again = (f"output_dir={tmp_path}/run", "train.resume=auto")
    shutil.rmtree(run_folder(tmp_path / "run", "train.micro_batch_size=16").parent)
    assert chosen(*again) == (16, True)  # for a run without a checkpoint
    (tmp_path / "other" / "run").mkdir(parents=True)
    step = run_folder(tmp_path / "other" / "run", "train.micro_batch_size=16")
    assert chosen(f"train.resume={step}", f"output_dir={tmp_path}/new") == (16, True)
    assert chosen(f"train.resume={step}", f"output_dir={tmp_path}/new", "train.micro_batch_size=8") == (8, False)
    # A micro-batch of 16 does not divide the 8 examples of each rank if there are more ranks.
    assert chosen(f"train.resume={step}", f"output_dir={tmp_path}/new", choice=4, ranks=8) == (4, True)


def test_a_number_in_deepspeeds_json_is_not_replaced(tmp_path):
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": 4}')
    with pytest.raises(UserError) as caught:
        prepare(["--ds_config", str(tmp_path / "ds.json"), *QUICK], World(), lambda *_: 32)
    (problem,) = caught.value.problems
    assert problem.key == "ds_config train_micro_batch_size_per_gpu" and problem.value == 4
    assert "train.micro_batch_size, which makes it 'auto'" in problem.reason and "train.micro_batch_size" in problem.fix


def test_ranks_with_different_gpus_take_what_fits_the_smallest(monkeypatch):
    def agreed(*asked):
        options, *_ = prepare(["--ds_config", str(ZERO2), *QUICK, *asked], World(0, 2, 0, 2), lambda *_: 32)
        found = agreed_micro_batch(options, World(0, 2, 0, 2))
        return found.run.train.micro_batch_size, found.ds_config["gradient_accumulation_steps"]

    monkeypatch.setattr(run_module, "from_all_ranks", lambda own: [own, 8])
    assert agreed() == (8, 4)
    assert agreed("train.micro_batch_size=16") == (16, 2)  # which differs from the other rank's, and is refused
