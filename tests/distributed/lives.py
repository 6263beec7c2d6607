"""Worker: the same small run again and again, interrupted, damaged and continued in every way, against one that was not.

Each life is a call of launch/train.py's `main` with a process group of its own; what interrupts it is a real signal.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from mat_ds.checkpoints import checkpoints_of, name_of
from mat_ds.engine import checkpoint
from mat_ds.engine.engine import Engine
from mat_ds.train import main as train

torch.set_num_threads(1)

OPTIONS = (
    "data.train_limit=96", "data.eval_limit=24", "train.batch_size=16", "train.micro_batch_size=4", "train.max_steps=8",
    "train.save_every=3", "train.eval_per_epoch=2", "train.resume=auto", "train.telemetry_every=3", "model.dropout=0.1",
    "method.delta_steps=2", "method.theta_steps=2", "train.keep_last=3",
)  # fmt: skip
STEPS = 8
RANK, RANKS = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def live(folder, *more, stage=2):
    """One life of a run; its exit code."""
    return int(train(["--ds_config", f"ds_configs/zero{stage}.json", *OPTIONS, f"output_dir={folder}", *more]))


@contextlib.contextmanager
def signalled(owner, name, step, number, ranks, call=1):
    """Within it, the ranks send themselves a signal in a function's `call`-th call of outer step `step`."""
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


def steps(run):
    """What a run logged, but for how fast it was."""
    measured = {"samples_per_second", "tokens_per_second", "seconds", "bytes"}
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in measured} for record in records if record.get("event") != "checkpoint"]


def same(run, whole):
    """Whether two runs ended bit for bit alike, and logged alike."""
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    return all(torch.equal(found[k], expected[k]) for k in found | expected) and steps(run) == steps(whole)


def saved(run):
    return [checkpoint.name for checkpoint in checkpoints_of(run)]


PHASES = {
    # what is called where, and the step of the checkpoint that must then be there
    "perturbation's loop": (Engine, "input_grad", 4, 4),
    "parameters' loop": (Engine, "update", 4, 5),
    "evaluation": (Engine, "predict", 5, 6),
    "saving": (checkpoint, "write_state", 5, 6),
}


def interrupted(folder, whole, report):
    for phase, (owner, name, step, kept) in PHASES.items():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            for ranks in {(RANKS - 1,), tuple(range(RANKS))}:
                run = folder / f"{name}-{number}-{len(ranks)}"
                # Two calls of update, and of input_grad, make a loop: the first is in its middle.
                with signalled(owner, name, step, number, ranks):
                    code = live(run)
                told = code == 75 and (run / "interrupted.json").exists() and not (run / "run.lock").exists()
                told &= saved(run)[0] == name_of(kept)
                told &= live(run) == 0 and not (run / "interrupted.json").exists()
                report[f"{phase}, {signal.Signals(number).name} to {len(ranks)}"] = told and same(run, whole)


def main():
    folder, report = Path(sys.argv[2]), {}
    whole = folder / "whole"
    assert live(whole) == 0
    interrupted(folder, whole, report)
    if RANK == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
