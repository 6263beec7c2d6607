"""What a run says of itself: where it ran, what it is about to do, how it ended."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version
from typing import Any

import torch

from mat_ds.engine.distributed import World
from mat_ds.loop import Progress, total_steps
from mat_ds.preflight import Prepared
from mat_ds.rundir import RunDirectory
from mat_ds.tasks.loader import TrainLoader


def environment(prepared: Prepared, world: World) -> dict[str, Any]:
    """Command, machine, versions, digests and DeepSpeed's configuration, for `environment.json`."""
    packages = ("mat_ds", "torch", "deepspeed", "transformers", "peft", "datasets", "evaluate", "tokenizers", "numpy")
    cuda = torch.cuda.is_available()
    return {
        "command": sys.argv,
        "world_size": world.size,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else ["cpu"],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "data_sha256": prepared.data_digest,
        "frozen_sha256": prepared.weights_digest["frozen"],
        "deepspeed_config": prepared.ds_config,
    }


def announce(
    prepared: Prepared, rundir: RunDirectory, loader: TrainLoader, parameters: int, cost: int, progress: Progress, world: World
) -> None:
    """Prints what the run is about to do."""
    run, data = prepared.run, prepared.data
    steps = total_steps(run, loader.steps_per_epoch)
    stage = prepared.ds_config["zero_optimization"].get("stage", 0)
    lines = (
        f"task       {data.spec.name}: {len(data.train)} training examples, "
        + ", ".join(f"{len(examples)} {split}" for split, examples in data.dev.items()),
        f"model      {run.model.name}, {parameters:,} parameters, drawn anew: {_few(prepared.fresh)}; "
        + (f"adapters of rank {run.model.lora.r}; " if run.model.lora else "")
        + f"inputs are cut at {prepared.max_length} tokens",
        f"method     {run.method.name} {run.method.variant}".rstrip() + f", {cost} forward units per step (vanilla: 3)",
        f"steps      {steps} of {run.train.batch_size} examples, micro-batches of {run.train.micro_batch_size} on {world.size} "
        f"ranks, ZeRO-{stage}" + (f", continuing after step {progress.step}" if progress.step else ""),
        f"left out   {loader.dropped_per_epoch} examples per epoch (last partial batch)"
        + (f", {data.skipped} training rows without a label" if data.skipped else ""),
        f"run        {rundir.path} (all options: {rundir.config.name})",
    )
    print("\n".join(lines), flush=True)


def _few(names: list[str]) -> str:
    return ", ".join([*names[:4], *([f"and {len(names) - 4} more"] if len(names) > 4 else [])]) or "nothing"


def conclude(results: dict[str, Any], rundir: RunDirectory) -> None:
    """Prints how the run ended."""
    export = results["export"]
    same = "reproduces its score" if export["reproduces_reported"] else "does NOT reproduce the score reported in training"
    print(
        f"best {results['best']['score']:.4f} (step {results['best']['step']}), last {results['last']['score']:.4f}, "
        f"median of the last half {results['median_last_half']:.4f}; {results['seconds']:.0f} s of training, "
        f"{results['samples_per_second']:.0f} examples/s\n"
        f"model/ {same} in plain transformers: {export['score']:.4f} in {export['dtype']}, "
        f"{export['score_fp32']:.4f} in float32\n"
        f"results: {rundir.results}",
        flush=True,
    )
