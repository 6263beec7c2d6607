"""Shared by the workers of the distributed tests: builds engines and runs outer steps."""

import dataclasses
import gc
import json
import os
import sys
from pathlib import Path

import torch

from mat_ds.engine.engine import Engine
from mat_ds.engine.export import gather_fp32
from mat_ds.engine.group import process_group
from mat_ds.methods import METHODS
from mat_ds.ranks.chains import ONE_CHAIN
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import complete
from mat_ds.runs.options import RunConfig
from tests.support.kinds import CLASSIFICATION, REGRESSION
from tests.support.tiny import micro_batches, shallow_roberta

torch.set_num_threads(1)

FP32, BF16, FP16 = {}, {"bf16": {"enabled": True}}, {"fp16": {"enabled": True}}
PRECISION = {"fp32": FP32, "bf16": BF16, "fp16": FP16}
STAGES = (0, 1, 2, 3)
LR = {"sgd": 1e-2, "rmsprop": 1e-4, "adam": 1e-3}

# Sizes at which each option of MAT moves the result by more than the tolerances; tests/equivalence checks that.
MAT = {
    "name": "mat",
    "delta_steps": 2,
    "theta_steps": 2,
    "delta_lr": 5e-2,
    "delta_init_scale": 2e-2,
    "delta_max_norm": 5e-2,
    "delta_noise": 0.0,
    "theta_noise": 0.0,
    "dropout": "off",
}

ORACLE_OPTIONS = ("delta_steps", "theta_steps", "delta_lr", "delta_init_scale", "delta_max_norm")


def ds_json(stage, precision=FP32, **zero):
    """A user's DeepSpeed JSON with buckets that fit a tiny model."""
    return {"zero_optimization": {"stage": stage, "reduce_bucket_size": 10**6, **zero}, **precision}


def make(
    world, tree, method=MAT, micro=2, optimizer=None, model=None, seed=0, batch=8, averages=None, kind=None, objective=None,
    chains=ONE_CHAIN, gather="auto", capture=None,
):  # fmt: skip
    """(engine, method) on the tiny model, built as in a run."""
    model = model or shallow_roberta()
    run = RunConfig.model_validate(
        {
            "train": {"batch_size": batch, "micro_batch_size": micro},
            "optimizer": {"lr": 1e-3, **(optimizer or {})},
            "method": method,
            "seed": seed,
        }
    )
    kind = kind or (REGRESSION if model.config.num_labels == 1 else CLASSIFICATION)
    player = METHODS[run.method.name](run.method, objective or kind)
    chain = dataclasses.replace(player.chain, averages={**player.chain.averages, **(averages or {})})
    return Engine(model, run.optimizer, chain, complete(tree, run, world), seed, kind.read, chains, gather, capture), player


def steps(world, engine, player, micro, batches, first=0, lr=1e-3, meets=lambda step: True):
    """Outer steps `first ..` on `batches`; returns the fp32 parameters on rank 0. `meets`: whether chains do after so many."""
    for t, batch in enumerate(batches, start=first):
        engine.begin(t, lr, (t - first) / len(batches), meets=meets(t + 1))
        here = {name: tensor.to(engine.device) for name, tensor in batch.items()}
        player.step(engine, micro_batches(here, micro, world.rank, world.size))
    return gather_fp32(engine)


def main(body):
    """Runs `body(world, report)` in a process group; rank 0 writes the report to the path in argv[1].

    Every rank checks that no thread of a process group outlives it, since one that does can abort the process at exit,
    and that torch's settings have been restored.
    """
    linear = torch.nn.functional.linear
    world, report = World.from_environment(), {}
    with process_group(world):
        body(world, report)
    write_report(world, report, linear)


def write_report(world, report, linear=torch.nn.functional.linear):
    """Makes the checks that `main` describes, and writes the report."""
    gc.collect()
    left = [name for name in threads() if "gloo" in name or "tcpstore" in name]
    assert not left, left
    assert torch.nn.functional.linear is linear
    if world.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))


def threads():
    """Names of the native threads of this process."""
    return [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
