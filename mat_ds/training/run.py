"""One fine-tuning run: configuration, task, model, method, engine, loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

import torch

from mat_ds.artifacts.exported import move_base
from mat_ds.engine import checkpoint
from mat_ds.engine.engine import Engine
from mat_ds.engine.export import export_model
from mat_ds.engine.group import process_group
from mat_ds.engine.loading import shard_unread
from mat_ds.errors import ExitCode, Interrupted, SaveError, UserError
from mat_ds.evaluation.scores import Evaluator, Scores
from mat_ds.methods import METHODS
from mat_ds.methods.base import Method
from mat_ds.ranks.collectives import from_rank_zero, on_rank_zero, same_on_all_ranks
from mat_ds.ranks.exits import attempt, compute_deterministically
from mat_ds.ranks.world import World
from mat_ds.storage.lock import RunLock
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory, mark_interrupted
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loader import Collator, TrainLoader
from mat_ds.terminal.display import Display
from mat_ds.terminal.library_logs import LibraryLogs
from mat_ds.terminal.stop_signals import StopSignals
from mat_ds.tracking.tracker import Tracker
from mat_ds.training.adversary import objections
from mat_ds.training.announce import Announcement, conclusion
from mat_ds.training.finish import finish, register_finished
from mat_ds.training.loop import Loop
from mat_ds.training.opening import open_run_directory
from mat_ds.training.preflight import Prepared
from mat_ds.training.stopping import StopRequests

# Does the work of a rank, and makes an exit code of what goes wrong; the last argument is an advice.
Guard = Callable[[Callable[[], object], World, str], ExitCode]


@dataclass(frozen=True)
class Housekeeping:
    """What keeps a run in order on this rank, whatever it computes.

    Attributes:
        stop_requests: what interrupts it.
        library_logs, display: what libraries say of it, and what it says itself.
        lock: keeps other jobs out of its directory.
        tracker: keeps its log.
    """

    stop_requests: StopRequests
    library_logs: LibraryLogs
    display: Display
    lock: RunLock
    tracker: Tracker


def run_on(
    prepared: Prepared,
    world: World,
    library_logs: LibraryLogs,
    guard: Guard = attempt,
) -> tuple[ExitCode, RunDirectory | None]:
    """Brings this rank together with the others and trains.

    Args:
        guard: what becomes of an error: it is given what all ranks do together, this rank, and advice where a number stops
            being finite.

    Returns:
        The exit code, and where the run is; None where it has not come to its end, or was but a dry run.
    """
    ended: list[RunDirectory | None] = []
    if prepared.run.train.deterministic:
        compute_deterministically()
    stop_signals, lock = StopSignals(), RunLock()
    stop_requests = StopRequests(stop_signals, prepared.run.train.save_minutes, world.rank == 0, lock.check_from_memory)
    display = Display(world.rank == 0, prepared.quiet, prepared.json)
    for remark in prepared.remarks:
        display.warn(remark)
    house = Housekeeping(stop_requests, library_logs, display, lock, Tracker(world.rank == 0, lock.check_from_memory))
    with ExitStack() as to_the_end:
        with process_group(world, timedelta(minutes=prepared.run.train.timeout_minutes)) as device:
            to_the_end.enter_context(stop_signals)
            code = guard(
                lambda: ended.append(train_model(prepared, world, device, house)),
                world,
                "The last checkpoint is from before; a smaller optimizer.lr or bf16 instead of fp16 may help.",
            )
        # No other rank waits any more. A launcher that ends the last one, because another has told to, can wait.
        house.tracker.settle()
    if prepared.run.tracking.register and house.tracker.run and code == ExitCode.OK:
        register_finished(house.tracker.run.path, prepared.run.tracking.register, prepared.run.tracking.uri)
    return code, ended[0] if ended else None


def train_model(prepared: Prepared, world: World, device: torch.device, house: Housekeeping) -> RunDirectory | None:
    """Trains, exports and scores on all ranks; returns where, or None where it was but a dry run."""
    run, data = prepared.run, prepared.data
    same_on_all_ranks(prepared.fingerprint, "options, data, vocabulary or initial weights")
    # Another job that is still there may have saved since one rank looked and before the next did.
    prepared.resume_from = from_rank_zero(prepared.resume_from)
    collate = Collator(prepared.tokenizer, prepared.max_length, kind_of(data.spec))
    micro = run.train.eval_micro_batch_size or run.train.micro_batch_size
    evaluator = Evaluator(data.spec, collate, micro, world, device, house.stop_requests.leave_if_told)
    try:
        with house.tracker:
            trained = _optimise(prepared, collate, evaluator, world, device, house)
            # The engine's memory is for the exported model now.
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if trained:
                results = finish(run, data, evaluator, *trained, world, device, house.lock.check)
                house.display.conclude(conclusion(results, trained[0], prepared.json))
        return trained[0] if trained else None
    except Interrupted as interruption:
        # A launcher ends the other ranks when one has gone: none goes before the first has left word.
        on_rank_zero(partial(_leave_word, house.lock, interruption))
        if house.lock.folder:
            raise Interrupted(f"{interruption}; go on with output_dir={house.lock.folder} train.resume=auto") from None
        raise
    finally:
        house.lock.release()


def _leave_word(lock: RunLock, interruption: Interrupted) -> None:
    """Says in the run directory, if it came to one, that the run can go on, and leaves it."""
    if lock.folder:
        lock.check()
        with suppress(SaveError):  # a disk that is full has said so, and the exit code says the rest
            mark_interrupted(RunDirectory(lock.folder), interruption)
        lock.release()


def _optimise(
    prepared: Prepared, collate: Collator, evaluator: Evaluator, world: World, device: torch.device, house: Housekeeping
) -> tuple[RunDirectory, Progress, torch.dtype] | None:
    """All outer steps; returns where and how they went, and the dtype they computed in; None where it was but a dry run."""
    run, data = prepared.run, prepared.data
    loader = TrainLoader(
        data.train,
        collate,
        run.train.batch_size,
        run.train.micro_batch_size,
        run.data,
        run.seed,
        world.rank,
        world.size,
        device,
    )
    objective = kind_of(data.spec)
    method = METHODS[run.method.name](run.method, objective)
    built = prepared.take_model()
    shard_unread(built.module, built.unread, prepared.ds_config)
    fold = method.prepare_model(built.module, run.method)
    chain = method.chain.beside(run.model.average, run.model.average_decay)
    engine = Engine(built.module, run.optimizer, chain, prepared.ds_config, run.seed, objective.read)
    engine.leave_if_told = house.stop_requests.leave_if_told
    try:
        if not prepared.resume_from:
            _look_at_the_adversary(engine, method, loader, house.display)
        plan = Announcement(prepared, loader, engine.parameters, method.cost, world, house.display)
        if prepared.dry_run:
            plan.rehearse()
            return None
        rundir = open_run_directory(prepared, world, device, house.lock, house.stop_requests, house.display)
        progress, still_ours = Progress(), house.lock.check
        if prepared.resume_from:
            state, passed_over = checkpoint.load_checkpoint(engine, prepared.resume_from, rundir.model, still_ours)
            progress = Progress.restored(state)
            on_rank_zero(lambda: move_base(rundir.model, run.model.name))  # adapters of the best model so far
            for damage in passed_over:
                house.display.warn(f"{damage}; passed over, not deleted")

        def begin() -> None:
            still_ours()
            house.library_logs.write_to(rundir.log)
            house.tracker.begin(rundir, progress.step, run.tracking.uri)

        on_rank_zero(begin)
        plan.announce(rundir, progress)

        def evaluate(weights: str) -> tuple[Scores, float]:
            with _weights(engine, weights):
                return evaluator.scores(engine.predict, data.dev)

        def export() -> None:
            with _weights(engine, run.train.export_weights):
                export_model(engine, prepared.tokenizer, rundir.model, run.model.lora, fold, still_ours)

        def save(done: Progress) -> checkpoint.Saved:
            best = done.best["step"] if done.evaluations else None
            state, keep = asdict(done), run.train.keep_last
            return checkpoint.save(engine, rundir.checkpoints, state, keep, rundir.model, best, still_ours, house.lock.token)

        tracker, display, stop_requests = house.tracker, house.display, house.stop_requests
        loop = Loop(run, engine, method, loader, tracker, display, progress, stop_requests, evaluate, export, save)
        return rundir, loop.train(), engine.dtype
    finally:
        engine.close()


def _weights(engine: Engine, weights: str) -> AbstractContextManager[None]:
    """Within it, the engine has the weights that options call `raw` or `average`."""
    return nullcontext() if weights == "raw" else engine.averaged_weights("average")


def _look_at_the_adversary(engine: Engine, method: Method, loader: TrainLoader, display: Display) -> None:
    """Before anything is written, whether the method does anything to a real batch.

    Raises:
        UserError: on every rank, if it does not and `method.on_invisible=error`.
    """
    engine.begin(0, 0.0)
    problems = objections(engine, method, loader.micro_batches(0)[0])
    if problems and method.settings.refuses_idling:
        raise UserError(*problems)
    for problem in problems:
        display.warn(f"the adversary does little ***\n- {problem}\n")
