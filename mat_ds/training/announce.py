"""Describes a run: its environment, and its plan before the first step."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from mat_ds.config.packaged import HOME
from mat_ds.config.versions import version_of
from mat_ds.config.yaml_files import as_yaml
from mat_ds.errors import masked, printable
from mat_ds.methods.base import units_text
from mat_ds.models.source import commit_of
from mat_ds.ranks.world import World
from mat_ds.runs.resume import changes, read_environment
from mat_ds.runs.steps import total_steps
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.examples import TaskData, train_splits
from mat_ds.tasks.loader import TrainLoader
from mat_ds.tasks.own_data import decision
from mat_ds.tasks.rows import skipped_lines
from mat_ds.terminal.layout import wrapped
from mat_ds.tracking.content import precision_of
from mat_ds.tracking.destination import mirror_uri
from mat_ds.tracking.options import TrackingConfig
from mat_ds.training.setup import Data, Options, Setup, Size, Start

# Columns of the names before the lines of a run's plan.
NAMES = 11
GATHERED = {"layer": "gathered layer by layer", "model": "gathered whole for passes without gradients of the weights"}
ADAPTERS = {"lora": "adapters", "dora": "DoRA adapters", "rslora": "rsLoRA adapters", "pissa": "PiSSA adapters"}


def host_and_device(device: torch.device) -> tuple[str, str]:
    """Host name and device of this rank."""
    return platform.node(), torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def environment(
    options: Options, data: Data, start: Start, world: World, places: Sequence[tuple[str, str]], before: RunDirectory | None
) -> dict[str, Any]:
    """Contents of `environment.json`: command, machines, versions, digests, DeepSpeed's configuration.

    Args:
        options, data, start: of the run that starts now.
        world: this rank.
        places: host and device of each rank.
        before: the run to continue, if any; its starts are kept, and this one is added with the changed options.
    """
    packages = ("mat_ds", "torch", "deepspeed", "transformers", "peft", "datasets", "evaluate", "tokenizers", "numpy", "mlflow")
    this_start = {
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "hosts": list(dict.fromkeys(host for host, _ in places)),
        "world_size": world.size,
        "zero_stage": options.ds_config["zero_optimization"].get("stage", 0),
        "from": start.checkpoints[0].name if start.checkpoints else None,
        "changed": changes(options.run.tracked(), before) if before else {},
        "tracking_decided_by": options.run.tracking.decided_by(),
    }
    return {
        "command": [masked(argument) for argument in sys.argv],
        "world_size": world.size,
        "devices": [device for _, device in places],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
        "git_commit": git_commit(HOME),
        "model_commit": commit_of(options.run.model.name, options.run.model.revision),
        "data_commits": data.examples.commits,
        "data_sha256": start.data_digest,
        "frozen_sha256": start.weights_digest["frozen"],
        **({"loss": data.objective.description} if data.objective else {}),
        "skipped": data.examples.skipped,
        "half_blank": {split: tally.half_blank for split, tally in data.examples.tallies.items() if tally.half_blank},
        "deepspeed_config": options.ds_config,
        "starts": [*(read_environment(before).get("starts", []) if before else []), this_start],
    }


def git_commit(folder: Path) -> str | None:
    """The git commit checked out in a folder; None if it is not the top of a working tree."""
    if not (folder / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # git is not installed, or does not trust the folder's owner
        return None


def place_lines(rundir: RunDirectory, tracking: TrackingConfig) -> tuple[str, ...]:
    """Where a run writes and what it is mirrored to, and which of MLflow's variables decided that."""
    settled, decided = tracking.settled(), tracking.decided_by()
    mirror = mirror_uri(rundir.path, settled.uri)
    said = {option: f" ({who})" if who.startswith("MLFLOW_") else "" for option, who in decided.items()}
    place = f"{mirror}{said['uri']}, experiment {settled.experiment}{said['experiment']}"
    return (
        _laid_out(f"run        {rundir.path} (all options: {rundir.config.name})"),
        _laid_out(f"mirrored   to MLflow at {place}" if mirror else f"mirrored   nowhere{said['uri']}"),
    )


def dry_lines(options: Options) -> tuple[str, ...]:
    """What a dry run prints below the plan: all options and DeepSpeed's configuration."""
    return (
        "run        dry: no step made, nothing written",
        "",
        "# all options",
        as_yaml(options.run.model_dump(mode="json")),
        "# DeepSpeed's configuration",
        json.dumps(options.ds_config, indent=2),
    )


def plan_lines(
    setup: Setup,
    loader: TrainLoader,
    size: Size,
    cost: int | Fraction,
    ranks: int,
    device: str,
    start: str,
    rates: tuple[float, float] = (1.0, 1.0),
    chains: int = 1,
    gathers: str | None = None,
) -> tuple[str, ...]:
    """What a run is going to do, for the user.

    Args:
        setup, loader: of the run.
        size: of its model.
        cost: forward units of an outer step.
        ranks: number of ranks.
        device: that of this rank.
        start: where it starts, unless at step 0.
        rates: the smallest and the largest step size of a parameter, as multiples of the run's.
        chains: number of chains of the parameters.
        gathers: what ZeRO-3 makes whole at a time in passes without gradients of the weights.
    """
    run, data, model = setup.options.run, setup.data.examples, setup.model
    steps = total_steps(run, loader.steps_per_epoch)
    ds_config = setup.options.ds_config
    stage, precision = ds_config["zero_optimization"].get("stage", 0), precision_of({"deepspeed_config": ds_config})
    dropped = loader.dropped_per_epoch
    lr, local = run.optimizer.lr, run.train.local_steps
    meeting = f"{local} outer steps" if local > 1 else "outer step"
    lines = (
        f"task       {data.spec.name}: {len(data.train):,} training examples, "
        + ", ".join(f"{len(examples):,} {split}" for split, examples in data.dev.items()),
        *_repeated(data),
        *(f"{name:10} {meaning}" for name, meaning in decision(data.spec, run.data)),
        *([f"texts      {run.data.augment.description}"] if run.data.augment else []),
        f"model      {run.model.name}, {size.text}, drawn anew: {_few(model.fresh)}; "
        + (f"{model.head}; " if model.head else "")
        + (f"{ADAPTERS[run.model.lora.variant]} of rank {run.model.lora.r}; " if run.model.lora else "")
        + f"inputs are cut at {setup.data.max_length} tokens, "
        + ("padding is left out" if model.unpadded else "and padded"),
        f"method     {run.method.name} {run.method.variant}".rstrip()
        + f", {units_text(cost)} forward units per step (vanilla: 3)",
        *([f"loss       {objective.description}"] if (objective := setup.data.objective) else []),
        f"device     {device}, {precision}, {ranks} rank{'s' if ranks > 1 else ''}, ZeRO-{stage}"
        + (f" within each of {chains} chains, which meet every {meeting}" if chains > 1 else "")
        + (f", {GATHERED[gathers]}" if gathers else "")
        + (", passes that train nothing replayed as CUDA graphs" if run.model.compile == "graphs" else ""),
        f"steps      {steps:,} of {run.train.batch_size} examples, micro-batches of {run.train.micro_batch}{start}",
        *([f"step size  {lr * rates[0]:.3g} to {lr * rates[1]:.3g} at its peak, by layer"] if run.optimizer.uneven else []),
        *([f"left out   {dropped:,} examples per epoch (last partial batch)"] if dropped else []),
        *(f"skipped    {line}" for line in skipped_lines(data.tallies)),
    )
    return tuple(map(_laid_out, lines))


def _laid_out(line: str) -> str:
    """A line of a run's plan on a terminal."""
    return wrapped(printable(line), NAMES)


def _repeated(data: TaskData) -> Iterator[str]:
    """A line on how often an epoch shows each training split, if any is repeated."""
    sources = [(f"{source.name}/{split}", repeats) for source, split, repeats in train_splits(data.spec)]
    if any(repeats > 1 for _, repeats in sources):
        parts = (f"{repeats} x {name}" for name, repeats in sources if name in data.tallies)  # a limit may exclude some
        yield f"mixture    {', '.join(parts)}"


def _few(names: list[str]) -> str:
    return ", ".join([*names[:4], *([f"and {len(names) - 4} more"] if len(names) > 4 else [])]) or "nothing"
