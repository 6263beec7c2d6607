"""The checks before ranks connect, and run directories with a checkpoint that is complete enough for them."""

import json
from functools import partial

import yaml

from mat_ds.planning.choice import choose_micro_batch
from mat_ds.ranks.world import World
from mat_ds.training import preflight
from tests.support.launch import ROOT

ZERO2 = ROOT / "ds_configs" / "zero2.json"
QUICK = ("data.train_limit=64", "data.eval_limit=20")
# As a run calls it.
prepare = partial(preflight.prepare, choose=choose_micro_batch)


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
