"""Starts a small run in this process as often as is asked, with a new process group each time, and interrupts it."""

import contextlib
import os

import torch

from mat_ds.commands.train import main as train
from mat_ds.engine.engine import Engine
from mat_ds.ranks import exits
from mat_ds.storage.checkpoints import checkpoints_of
from tests.workers.small_run import OPTIONS

torch.set_num_threads(1)
exits.REPORT_SECONDS = 0  # no launcher will kill the other ranks

RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def live(folder, *more, stage=2, options=OPTIONS):
    """Starts or continues a run; returns its exit code."""
    # With the same port, a rank that is early would find the store of the previous start.
    os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    return int(train(["--ds_config", f"ds_configs/zero{stage}.json", *options, f"output_dir={folder}", *more]))


@contextlib.contextmanager
def signalled(owner, name, step, number, ranks, call=1):
    """A context in which the ranks send themselves a signal at call number `call` of a function in outer step `step`."""
    original, calls = getattr(owner, name), []

    def told(engine, *arguments, **options):
        engine_step = engine._outer_step if hasattr(engine, "_outer_step") else None
        calls.append(1) if engine_step == step else None
        if engine_step == step and len(calls) == call and RANK in ranks:
            os.kill(os.getpid(), number)
        return original(engine, *arguments, **options)

    setattr(owner, name, told)
    try:
        yield
    finally:
        setattr(owner, name, original)


def saved(run):
    return [checkpoint.name for checkpoint in checkpoints_of(run)]


class Killed(BaseException):
    """What ends a process that is killed, which saves nothing."""


def killed(folder, step, *more, options=OPTIONS):
    """Starts or continues a run that dies in outer step `step`, when it has drawn one of its samples."""

    def die(engine):
        original(engine)
        if engine._outer_step == step:
            raise Killed

    original, Engine.update = Engine.update, die
    try:
        live(folder, *more, options=options)
    except Killed:
        return True
    finally:
        Engine.update = original
    return False
