"""The checks before ranks connect, and run directories with a checkpoint that is complete enough for them."""

import json

import yaml

from mat_ds.planning.choice import choose_micro_batch
from mat_ds.ranks.world import World
from mat_ds.training.preflight import load_setup
from mat_ds.training.request import read_request
from tests.support.launch import ROOT

ZERO2 = ROOT / "ds_configs" / "zero2.json"
QUICK = ("data.train_limit=64", "data.eval_limit=20")


def prepare(arguments, world, choose=choose_micro_batch):
    """Checks and loads what a command line of `mat-ds train` names, as that command does."""
    return load_setup(read_request(arguments, world), world, choose)


def run_folder(path, *overrides):
    """Makes a run directory of the demo, and returns its checkpoint."""
    options, _, _, start = prepare(["--ds_config", str(ZERO2), *QUICK, f"output_dir={path}", *overrides], World())
    step = path / "checkpoints" / "step-00000004"
    step.mkdir(parents=True)
    (step / "state.json").write_text("{}")
    (step.parent / "latest").write_text("step-00000004")
    (path / "config.yaml").write_text(yaml.safe_dump(options.run.model_dump(mode="json")))
    (path / "environment.json").write_text(json.dumps({
        "world_size": 1, "deepspeed_config": options.ds_config, "data_sha256": start.data_digest,
    }))  # fmt: skip
    return step
