"""One fine-tuning run: configuration, task, model, method, engine, loop."""

from __future__ import annotations

import gc
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from mat_ds.command import attempt, compute_deterministically, report, settle
from mat_ds.config.schema import ModelConfig
from mat_ds.engine import checkpoint
from mat_ds.engine.distributed import World, any_rank, on_rank_zero, process_group, same_on_all_ranks
from mat_ds.engine.engine import Engine
from mat_ds.engine.export import export_model
from mat_ds.errors import ExitCode, Problem, UserError
from mat_ds.evaluation import Evaluator
from mat_ds.loop import Loop, Progress, total_steps
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.methods.objective import TaskObjective
from mat_ds.models.spectral import SpectralHead
from mat_ds.outcome import finish
from mat_ds.prepare import Prepared, prepare
from mat_ds.rundir import RunDirectory, new_folder, write_json, write_text
from mat_ds.sampling.average import Average
from mat_ds.sampling.chain import Chain
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tracking.tracker import JsonlTracker, NullTracker, Tracker

Value = TypeVar("Value")

# How long a file that rank 0 wrote may take to be seen on another node: network disks cache what is not there.
SHARED_SECONDS = 60


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs `launch/train.py`'s command line on this rank and returns its exit code."""
    world = World.from_environment()
    settle(world)
    try:
        prepared = prepare(arguments, world)
    except UserError as error:
        return report(error, world)
    if prepared.run.train.deterministic:
        compute_deterministically()
    with process_group(world) as device:
        return attempt(
            lambda: train(prepared, world, device), world,
            "The last checkpoint is from before; a smaller optimizer.lr or bf16 instead of fp16 may help.",
        )  # fmt: skip


def train(prepared: Prepared, world: World, device: torch.device) -> None:
    """Trains, exports and scores on all ranks."""
    run, data = prepared.run, prepared.data
    same_on_all_ranks(prepared.fingerprint, "options, data, vocabulary or initial weights")
    rundir = _open_run_directory(prepared, world, device)
    collate = Collator(prepared.tokenizer, prepared.max_length, data.spec.regression)
    evaluator = Evaluator(data.spec, collate, run.train.eval_micro_batch_size or run.train.micro_batch_size, world, device)
    progress, dtype = _optimise(prepared, rundir, collate, evaluator, world, device)
    # The engine's memory is for the exported model now.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    results = finish(run, data, evaluator, rundir, progress, dtype, world, device)
    if world.rank == 0:
        _conclude(results, rundir)


def _optimise(
    prepared: Prepared, rundir: RunDirectory, collate: Collator, evaluator: Evaluator, world: World, device: torch.device
) -> tuple[Progress, torch.dtype]:
    """All outer steps; returns how they went and the dtype they computed in."""
    run, data = prepared.run, prepared.data
    loader = TrainLoader(data.train, collate, run.train, run.data, run.seed, world.rank, world.size, device)
    method = METHODS[run.method.name](run.method, TaskObjective(data.spec.regression))
    model = prepared.take_model()
    fold = SpectralHead(model).fold if run.method.spectral_head else None
    engine = Engine(model, run.optimizer, _chain(method, run.model), prepared.ds_config, run.seed)
    resume_from = prepared.resume_from
    progress = Progress(**checkpoint.load(engine, resume_from, rundir.model)) if resume_from else Progress()

    def with_weights(weights: str, function: Callable[[], Value]) -> Value:
        if weights == "raw":
            return function()
        with engine.averaged_weights("average"):
            return function()

    tracker: Tracker = JsonlTracker(rundir.metrics, progress.step) if world.rank == 0 else NullTracker()
    if world.rank == 0:
        _announce(prepared, rundir, loader, engine.parameters, method.cost, progress, world)
    loop = Loop(
        run, engine, method, loader, tracker, world.rank == 0, progress,
        evaluate=lambda weights: with_weights(weights, lambda: evaluator.scores(engine.predict, data.dev)),
        export=lambda: with_weights(
            run.train.export_weights, lambda: export_model(engine, prepared.tokenizer, rundir.model, fold)
        ),
        save=lambda done: checkpoint.save(engine, rundir.checkpoints, asdict(done), run.train.keep_last, rundir.model),
    )  # fmt: skip
    try:
        return loop.train(), engine.dtype
    finally:
        engine.close()
        tracker.close()


def _chain(method: Method, model: ModelConfig) -> Chain:
    """The method's chain with the running average that the user wants beside it."""
    if model.average == "none":
        return method.chain
    average = Average(None if model.average == "uniform" else model.average_decay)
    return replace(method.chain, averages={**method.chain.averages, "average": average})


def _open_run_directory(prepared: Prepared, world: World, device: torch.device) -> RunDirectory:
    """The run's directory, made and described by rank 0.

    Raises:
        UserError: on every rank, if a node does not see what rank 0 wrote.
    """
    run, before = prepared.run, prepared.resume_from

    def make() -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        chosen = Path(run.output_dir) if run.output_dir else before.parent.parent if before else None
        rundir = RunDirectory(chosen or new_folder(Path(f"runs/{prepared.data.spec.name}-{run.method.name}-{stamp}")))
        rundir.create()
        resolved = {**run.model_dump(mode="json"), "output_dir": str(rundir.path)}
        write_text(rundir.config, yaml.safe_dump(resolved, sort_keys=False))
        write_json(rundir.environment, _environment(prepared, world))
        return rundir.path

    rundir = RunDirectory(on_rank_zero(make))
    deadline = time.monotonic() + SHARED_SECONDS
    while not rundir.holds_a_run and time.monotonic() < deadline:
        time.sleep(0.1)
    if any_rank(not rundir.holds_a_run, device):
        raise UserError(Problem("output_dir", str(rundir.path), "some node does not see what the first one wrote there",
                                "name a folder on a disk that all nodes share"))  # fmt: skip
    return rundir


def _environment(prepared: Prepared, world: World) -> dict[str, Any]:
    packages = ("mat_ds", "torch", "deepspeed", "transformers", "datasets", "evaluate", "tokenizers", "numpy")
    cuda = torch.cuda.is_available()
    return {
        "command": sys.argv,
        "world_size": world.size,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else ["cpu"],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "data_sha256": prepared.data_digest,
        "deepspeed_config": prepared.ds_config,
    }


def _announce(
    prepared: Prepared, rundir: RunDirectory, loader: TrainLoader, parameters: int, cost: int, progress: Progress, world: World
) -> None:
    run, data = prepared.run, prepared.data
    steps = total_steps(run, loader.steps_per_epoch)
    stage = prepared.ds_config["zero_optimization"].get("stage", 0)
    lines = (
        f"task       {data.spec.name}: {len(data.train)} training examples, "
        + ", ".join(f"{len(examples)} {split}" for split, examples in data.dev.items()),
        f"model      {run.model.name}, {parameters:,} parameters, drawn anew: {_few(prepared.fresh)}; inputs are cut at "
        f"{prepared.max_length} tokens",
        f"method     {run.method.name}, {cost} forward units per step (vanilla: 3)",
        f"steps      {steps} of {run.train.batch_size} examples, micro-batches of {run.train.micro_batch_size} on {world.size} "
        f"ranks, ZeRO-{stage}" + (f", continuing after step {progress.step}" if progress.step else ""),
        f"left out   {loader.dropped_per_epoch} examples per epoch (last partial batch)"
        + (f", {data.skipped} training rows without a label" if data.skipped else ""),
        f"run        {rundir.path} (all options: {rundir.config.name})",
    )
    print("\n".join(lines), flush=True)


def _few(names: list[str]) -> str:
    return ", ".join([*names[:4], *([f"and {len(names) - 4} more"] if len(names) > 4 else [])]) or "nothing"


def _conclude(results: dict[str, Any], rundir: RunDirectory) -> None:
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
