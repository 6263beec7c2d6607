"""Runs one fine-tuning: connects the ranks, trains, and finishes the run."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from functools import partial

import torch

from mat_ds.engine.engine import Engine
from mat_ds.engine.graphs import capture_on_card
from mat_ds.engine.group import process_group
from mat_ds.engine.loading import shard_unread
from mat_ds.engine.shards import numel, trainable
from mat_ds.errors import ExitCode, Interrupted, SaveError, UserError
from mat_ds.evaluation.scores import Evaluator
from mat_ds.methods import METHODS
from mat_ds.methods.base import Fold, Method
from mat_ds.ranks.chains import make_chains
from mat_ds.ranks.collectives import from_all_ranks, from_rank_zero, on_rank_zero, same_on_all_ranks
from mat_ds.ranks.exits import attempt, compute_deterministically
from mat_ds.ranks.world import World
from mat_ds.runs.chains import chain_count
from mat_ds.runs.steps import meets_after, total_steps
from mat_ds.sampling.schedule import cycles_of
from mat_ds.storage.lock import RunLock
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory, mark_interrupted
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.loader import TrainLoader
from mat_ds.terminal.display import Display
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.terminal.stop_signals import StopSignals
from mat_ds.terminal.waiting import waiting
from mat_ds.tracking.tracker import Tracker
from mat_ds.training.adversary import objections
from mat_ds.training.announce import dry_lines, host_and_device, place_lines, plan_lines
from mat_ds.training.conclusion import conclusion
from mat_ds.training.finish import Trained, finish, register_finished
from mat_ds.training.loop import Loop
from mat_ds.training.opening import open_run_directory
from mat_ds.training.services import Services
from mat_ds.training.setup import Model, Options, Setup, Size
from mat_ds.training.snapshots import Snapshots
from mat_ds.training.stopping import StopRequests

# Calls a function on this rank and turns exceptions into an exit code; the text is advice for a run that diverged.
Guard = Callable[[Callable[[], object], World, str], ExitCode]


def run_on(
    setup: Setup,
    world: World,
    library_logs: LibraryLogs,
    guard: Guard = attempt,
) -> tuple[ExitCode, RunDirectory | None]:
    """Connects this rank with the others and trains.

    Args:
        setup: what to train.
        world: this rank.
        library_logs: collects what libraries log.
        guard: calls the function that all ranks run together, and handles its exceptions; see `Guard`.

    Returns:
        The exit code, and the run directory; None if the run did not finish, or was a dry run.
    """
    ended: list[RunDirectory | None] = []
    options, run = setup.options, setup.options.run
    if run.train.deterministic:
        compute_deterministically()
    stop_signals, lock = StopSignals(answers=world.rank == 0), RunLock()
    stop_requests = StopRequests(stop_signals, run.train.save_minutes, world.rank == 0, lock.check_from_memory)
    display = Display(world.rank == 0, options.quiet, options.json)
    for remark in (*options.remarks, *([f"{run.model.name}: {setup.model.head}"] if setup.model.head else [])):
        display.warn(remark)
    services = Services(stop_requests, library_logs, display, lock, Tracker(world.rank == 0, lock.check_from_memory))
    with ExitStack() as to_the_end:
        with process_group(world, timedelta(minutes=run.train.timeout_minutes)) as device:
            to_the_end.enter_context(stop_signals)
            code = guard(
                lambda: ended.append(train_model(setup, world, device, services)),
                world,
                "The last checkpoint is from before; a smaller optimizer.lr or bf16 instead of fp16 may help.",
            )
        # Only now, when no other rank waits for this one any more.
        services.tracker.settle(display.say, lambda: code == ExitCode.OK and stop_signals.received is not None)
    if run.tracking.register and services.tracker.run and code == ExitCode.OK:
        register_finished(services.tracker.run.path, run.tracking.register, run.tracking.settled().uri)
    return code, ended[0] if ended else None


def train_model(setup: Setup, world: World, device: torch.device, services: Services) -> RunDirectory | None:
    """Trains, exports and scores on all ranks; returns the run directory, or None after a dry run."""
    setup = setup._replace(options=agreed_micro_batch(setup.options, world))
    run, data = setup.options.run, setup.data
    same_on_all_ranks(setup.fingerprint, "options, data, vocabulary or initial weights")
    # Ranks may have found different checkpoints, if another job is still saving.
    setup = setup._replace(start=from_rank_zero(setup.start))
    evaluator = Evaluator(
        data.examples.spec,
        data.collate,
        run.train.eval_micro_batch,
        world,
        device,
        services.stop_requests.leave_if_told,
        services.display.follow,
    )
    try:
        with services.tracker:
            trained = _optimise(setup, evaluator, world, device, services)
            # Free the engine's memory for the exported model.
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if trained:
                results = finish(setup, trained, evaluator, services.lock.check)
                services.display.conclude(conclusion(results, data.examples, trained.rundir, setup.options.json))
        return trained.rundir if trained else None
    except Interrupted as interruption:
        # A launcher kills the other ranks when one exits, so every rank waits until rank 0 has written the mark.
        on_rank_zero(partial(_record_interruption, services.lock, interruption))
        if services.lock.folder:
            raise Interrupted(f"{interruption}; go on with output_dir={services.lock.folder} train.resume=auto") from None
        raise
    finally:
        services.lock.release()


def agreed_micro_batch(options: Options, world: World) -> Options:
    """The options with the smallest micro-batch that a rank has chosen: what fits the smallest of the GPUs fits them all."""
    sizes = from_all_ranks(options.run.train.micro_batch)
    return options.at_micro_batch(min(sizes), world) if options.chosen else options


def _record_interruption(lock: RunLock, interruption: Interrupted) -> None:
    """Marks the run directory, if there is one yet, as interrupted, and unlocks it."""
    if lock.folder:
        lock.check()
        with suppress(SaveError):  # a full disk has been reported already
            mark_interrupted(RunDirectory(lock.folder), interruption)
        lock.release()


def _optimise(setup: Setup, evaluator: Evaluator, world: World, device: torch.device, services: Services) -> Trained | None:
    """Runs all outer steps; returns None after a dry run."""
    options, data, model, start = setup
    run, display = options.run, services.display
    loader = TrainLoader(
        data.examples.train,
        data.collate,
        run.train.batch_size,
        run.train.micro_batch,
        run.data,
        run.seed,
        world.rank,
        world.size,
        device,
    )
    method = METHODS[run.method.name](run.method, data.objective or data.kind)
    speaks = world.rank == 0 and not options.quiet
    with waiting("building the engine", speaks):
        total = total_steps(run, loader.steps_per_epoch)
        engine, fold = _build_engine(options, data.kind, model, method, len(data.examples.train), total, world)
    engine.leave_if_told = services.stop_requests.leave_if_told
    try:
        if not start.checkpoints:
            with waiting("looking at what the adversary does to a batch", speaks):
                _look_at_the_adversary(engine, method, loader, display)
        trained = sum(numel(parameter) for _, parameter in trainable(engine.ds.module))
        device_name = host_and_device(device)[1]
        size, rates = Size(engine.parameters, trained), engine.shards.rates
        plan = partial(
            plan_lines,
            setup,
            loader,
            size,
            method.cost,
            world.size,
            device_name,
            rates=rates,
            chains=engine.shards.chains.count,
            gathers=engine.gathers,
        )
        if options.dry_run:
            continuing = f", would continue from {start.checkpoints[0].name}" if start.checkpoints else ""
            display.say(*plan(continuing), *dry_lines(options))
            return None
        rundir, start = open_run_directory(options, data, start, world, device, services)
        snapshots, progress = Snapshots(run, engine, data, evaluator, rundir, fold, services.lock, display), Progress()
        if start.checkpoints:
            progress, remarks = snapshots.restore(start.checkpoints)
            for remark in remarks:
                display.warn(remark)
            if meets_after(run, progress.step, total):  # it was interrupted between two meetings, and is to end here
                engine.meet(progress.step - 1)
        on_rank_zero(lambda: _begin(rundir, progress, run.tracking.settled().uri, services))
        continuing = f", continuing after step {progress.step}" if progress.step else ""
        display.say(*plan(continuing), *place_lines(rundir, run.tracking))
        loop = Loop(run, engine, method, loader, snapshots, services.tracker, display, services.stop_requests)
        return Trained(rundir, loop.train(progress), engine.dtype, size, total)
    finally:
        engine.close()


def _build_engine(
    options: Options, kind: Kind, model: Model, method: Method, examples: int, total: int, world: World
) -> tuple[Engine, Fold | None]:
    """The engine for a run of `total` outer steps over so many examples, and what the method's `prepare_model` returned."""
    run, built = options.run, model.take()
    divided = run.method.divided
    chains = make_chains(chain_count(run, world), divided.average_moments, run.train.local_steps, divided.compression)
    shard_unread(built.module, built.unread, options.ds_config, chains)
    fold = method.prepare_model(built.module, run.method)
    chain = method.chain.beside(run.model.average, run.model.average_decay)
    stages = cycles_of(run.optimizer, run.sampling, total).stages
    chain = chain.at_temperature(run.sampling.temperature, examples, stages if run.sampling.explore else None)
    capture = capture_on_card() if run.model.compile == "graphs" else None
    engine = Engine(
        built.module, run.optimizer, chain, options.ds_config, run.seed, kind.read, chains, run.model.gather, capture
    )
    return engine, fold


def _begin(rundir: RunDirectory, progress: Progress, uri: str | None, services: Services) -> None:
    """Opens the log files of a run."""
    services.lock.check()
    services.library_logs.write_to(rundir.log)
    services.tracker.begin(rundir, progress.step, uri)


def _look_at_the_adversary(engine: Engine, method: Method, loader: TrainLoader, display: Display) -> None:
    """Warns of parts of the method that have no effect on a real batch, before anything is written.

    Raises:
        UserError: on every rank, if there are any and `method.on_invisible` is `error`.
    """
    engine.begin(0, 0.0)
    problems = objections(engine, method, loader.micro_batches(0)[0])
    if problems and method.settings.refuses_idling:
        raise UserError(*problems)
    for problem in problems:
        display.warn(f"the adversary does little ***\n- {problem}\n")
