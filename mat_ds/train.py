"""One fine-tuning run: configuration, task, model, method, engine, loop."""

from __future__ import annotations

import gc
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from mat_ds.engine import checkpoint
from mat_ds.engine.distributed import World, any_rank, on_rank_zero, process_group, same_on_all_ranks
from mat_ds.engine.engine import Engine
from mat_ds.engine.export import export_model
from mat_ds.engine.loading import shard_unread
from mat_ds.errors import ExitCode, NonFiniteError, Problem, UserError
from mat_ds.evaluation import Evaluator
from mat_ds.loop import Loop, Progress, total_steps
from mat_ds.methods import METHODS
from mat_ds.methods.objective import TaskObjective
from mat_ds.outcome import finish
from mat_ds.prepare import Prepared, prepare
from mat_ds.rundir import RunDirectory, new_folder, write_json, write_text
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.tracking.tracker import JsonlTracker, NullTracker, Tracker

# How long a rank waits for the one that reports: the launcher kills all ranks when the first exits.
REPORT_SECONDS = 20
# How long a file that rank 0 wrote may take to be seen on another node: network disks cache what is not there.
SHARED_SECONDS = 60


def main(arguments: Sequence[str]) -> ExitCode:
    """Runs `launch/train.py`'s command line on this rank and returns its exit code."""
    world = World.from_environment()
    _settle(world)
    try:
        prepared = prepare(arguments, world)
    except UserError as error:
        return _report(error, world)
    if prepared.run.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    with process_group(world) as device:
        return _attempt(prepared, world, device)


def _attempt(prepared: Prepared, world: World, device: torch.device) -> ExitCode:
    """Trains, and turns what goes wrong into a message and an exit code."""
    try:
        train(prepared, world, device)
        return ExitCode.OK
    except UserError as error:
        return _report(error, world)
    except NonFiniteError as error:
        if world.rank == 0:
            print(f"\nstopped: {error}. The last checkpoint is from before; a smaller optimizer.lr or bf16 instead of fp16 "
                  "may help.", file=sys.stderr, flush=True)  # fmt: skip
        return ExitCode.NON_FINITE
    except Exception:
        print(f"\nrank {world.rank} failed:", file=sys.stderr)
        traceback.print_exc()
        sys.stderr.flush()
        return ExitCode.FAILED


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
    built = prepared.take_model()
    shard_unread(built.module, built.unread, prepared.ds_config)
    engine = Engine(built.module, run.optimizer, method.chain, prepared.ds_config, run.seed)
    resume_from = prepared.resume_from
    progress = Progress(**checkpoint.load(engine, resume_from, rundir.model)) if resume_from else Progress()
    tracker: Tracker = JsonlTracker(rundir.metrics, progress.step) if world.rank == 0 else NullTracker()
    if world.rank == 0:
        _announce(prepared, rundir, loader, engine.parameters, method.cost, progress, world)
    loop = Loop(
        run, engine, method, loader, tracker, world.rank == 0, progress,
        evaluate=lambda: evaluator.scores(engine.predict, data.dev),
        export=lambda: export_model(engine, prepared.tokenizer, rundir.model, run.model.lora),
        save=lambda done: checkpoint.save(engine, rundir.checkpoints, asdict(done), run.train.keep_last, rundir.model),
    )  # fmt: skip
    try:
        return loop.train(), engine.dtype
    finally:
        engine.close()
        tracker.close()


def _settle(world: World) -> None:
    """Process-wide settings; ranks that share a CPU must not fight for its cores."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    if not torch.accelerator.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))


def _report(error: UserError, world: World) -> ExitCode:
    """Local rank 0 prints the problems; the others give it the time to."""
    if world.local_rank == 0:
        print(f"\n{error}", file=sys.stderr, flush=True)
    else:
        time.sleep(REPORT_SECONDS)
    return ExitCode.USER_ERROR


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


def _announce(
    prepared: Prepared, rundir: RunDirectory, loader: TrainLoader, parameters: int, cost: int, progress: Progress, world: World
) -> None:
    run, data = prepared.run, prepared.data
    steps = total_steps(run, loader.steps_per_epoch)
    stage = prepared.ds_config["zero_optimization"].get("stage", 0)
    lines = (
        f"task       {data.spec.name}: {len(data.train)} training examples, "
        + ", ".join(f"{len(examples)} {split}" for split, examples in data.dev.items()),
        f"model      {run.model.name}, {parameters:,} parameters, drawn anew: {_few(prepared.fresh)}; "
        + (f"adapters of rank {run.model.lora.r}; " if run.model.lora else "")
        + f"inputs are cut at {prepared.max_length} tokens",
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
