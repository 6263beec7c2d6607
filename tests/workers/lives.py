"""Worker: the same small run, interrupted, damaged and continued in many ways, against one that was left alone.

Each start is a call of launch/train.py's `main`, with a new process group; interruptions are real signals.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from mat_ds.artifacts.conversion import whole_weights
from mat_ds.artifacts.members import members_of
from mat_ds.commands.train import main as train
from mat_ds.engine import checkpoint
from mat_ds.engine.engine import Engine
from mat_ds.errors import ExitCode
from mat_ds.ranks import exits
from mat_ds.storage.checkpoints import checkpoints_of, name_of
from mat_ds.storage.lock import LOCK
from mat_ds.storage.owner import Owner, process_stat
from tests.support.expected import few
from tests.workers.small_run import OPTIONS, STEPS, same, steps

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


PHASES = {
    # the function, the outer step of the signal, and the step of the checkpoint that must then exist
    "perturbation's loop": (Engine, "delta_gradient", 4, 4),
    "parameters' loop": (Engine, "update", 4, 5),
    "evaluation": (Engine, "predict", 5, 6),
    "saving": (checkpoint, "write_state", 5, 6),
}
# The signal, and the ranks that get it.
SIGNALS = {"SIGTERM": (signal.SIGTERM, tuple(range(RANKS))), "SIGUSR1": (signal.SIGUSR1, (RANKS - 1,))}


def interrupted(folder, whole, report):
    """A signal to one rank or to all, in every phase: the run saves at once or after the current loop, and continues."""
    for phase, sent in few(PHASES, SIGNALS):
        owner, name, step, kept = PHASES[phase]
        run = folder / f"{name}-{sent}"
        with signalled(owner, name, step, *SIGNALS[sent]):
            code = live(run)
        told = code == ExitCode.REQUEUE and (run / "interrupted.json").exists() and not (run / "run.lock").exists()
        told &= saved(run)[0] == name_of(kept)
        told &= live(run) == 0 and not (run / "interrupted.json").exists()
        report[f"{phase}, {sent}"] = told and same(run, whole)

    run = folder / "twice"
    for step in (1, 6):
        with signalled(Engine, "update", step, signal.SIGTERM, (0,)):
            live(run)
    done = live(run)
    report["twice"] = saved(run)[1:3] == [name_of(7), name_of(6)] and done == 0 and same(run, whole)
    report["after the last step"] = live(run) == 0 and same(run, whole)


def damaged(folder, whole, report):
    """Damaged checkpoints are reported, skipped and kept; the run ends as the undamaged one."""
    shard = f"checkpoints/{name_of(STEPS)}/rank-00000-0.safetensors"

    def cut(run):
        os.truncate(run / shard, (run / shard).stat().st_size // 2)

    def flip(run):
        with (run / shard).open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))

    cases = {
        "truncated": (cut, "bytes, not"),
        "flipped": (flip, "does not hold what was written"),
        "missing": (lambda run: (run / shard).unlink(), "is missing"),
        "no manifest": (lambda run: (run / shard).with_name("manifest.json").unlink(), "no manifest"),
        "no latest": (lambda run: (run / "checkpoints/latest").unlink(), None),
        "latest nowhere": (lambda run: (run / "checkpoints/latest").write_text("step-00000099"), None),
        "latest torn": (lambda run: (run / "checkpoints/latest").write_bytes(b"st\xff"), None),
    }
    for name, (harm, told) in cases.items():
        run = folder / name.replace(" ", "-")
        if RANK == 0:
            shutil.copytree(whole, run)
            harm(run)
        code, words = heard(run)
        still_there = (run / f"checkpoints/{name_of(STEPS)}.damaged").exists()
        passed = not told or (told in words and "passed over" in words and still_there)
        report[name] = code == 0 and passed and same(run, whole)

    run = folder / "all"
    if RANK == 0:
        shutil.copytree(whole, run)
        for checkpoint in saved(run):
            (run / "checkpoints" / checkpoint / "rank-00000-0.safetensors").unlink()
    before = saved(run)
    code, words = heard(run)
    report["all damaged"] = code == ExitCode.USER_ERROR and words.count("is missing") == 3 and saved(run) == before


def changed(folder, whole, report):
    """Options that would make it another run are refused by name; others are accepted and recorded."""
    run = folder / "changed"
    if RANK == 0:
        shutil.copytree(whole, run)
    code, words = heard(run, "optimizer.lr=1e-4", "train.telemetry_every=1")
    refused = code == ExitCode.USER_ERROR and "optimizer.lr = 0.0001" in words and "telemetry_every" not in words
    code, _ = heard(run, "train.telemetry_every=1", stage=1)
    starts = json.loads((run / "environment.json").read_text())["starts"]
    noted = starts[-1]["changed"].pop("train.telemetry_every") == [3, 1] and [s["zero_stage"] for s in starts] == [2, 1]
    noted &= starts[-1]["changed"].keys() == {"output_dir"}
    report["changed"] = refused and code == 0 and noted

    # The ranks' parent process lives as long as they do.
    process = replace(Owner.me(), pid=os.getppid(), started=process_stat(os.getppid())[1])
    for name, owner, expected in (("living", process, ExitCode.USER_ERROR), ("dead", replace(process, started=1), ExitCode.OK)):
        if RANK == 0:
            shutil.rmtree(run / LOCK, ignore_errors=True)
            (run / LOCK).mkdir()
            (run / LOCK / "other").write_bytes(owner.as_text())
        code, words = heard(run, "train.telemetry_every=1", stage=1)
        report[f"lock of the {name}"] = code == expected and ("another job uses it" in words) == (name == "living")


def heard(run, *more, stage=2):
    """The exit code of a start, and its stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as words:
        code = live(run, *more, stage=stage)
    return code, words.getvalue()


def ended(folder, whole, report):
    """A run that no later evaluation can satisfy ends early, on all ranks; resumed it counts on, and with more patience it goes
    on to where it would have come without: its schedule has had the planned length all along."""
    stopping = ("train.early_stopping.patience=1", "train.early_stopping.min_delta=10")
    alone, cut = folder / "ended", folder / "ended-cut"
    codes = [live(alone, *stopping)]
    with signalled(Engine, "update", 4, signal.SIGTERM, (0,)):
        codes.append(live(cut, *stopping))
    codes += [live(cut, *stopping), live(cut, *stopping)]  # the second time there is nothing left to do
    reason = "none of the last 1 evaluations was better by more than 10 in the score than that of step 3"
    told = {"patience": 1, "min_delta": 10.0, "by": "the score", "stopped": True, "planned_steps": STEPS, "reason": reason}
    found = [json.loads((run / "results.json").read_text()) for run in (alone, cut)]
    early = all(each["steps"] == each["last"]["step"] == 6 and told.items() < each["early_stopping"].items() for each in found)
    early &= codes == [ExitCode.OK, ExitCode.REQUEUE, ExitCode.OK, ExitCode.OK] and same(cut, alone)
    report["ended early"] = early
    code = live(cut, "train.early_stopping.patience=9")
    rest = json.loads((cut / "results.json").read_text())["early_stopping"]
    report["ended late"] = code == 0 and same(cut, whole) and (rest["stopped"], rest["reason"]) == (False, None)


LOCAL = (
    *(option for option in OPTIONS if not option.startswith("method.")), "method.name=vanilla", "method.chains=per_rank",
    "train.local_steps=3", "train.eval_per_epoch=3", "train.export=last", "train.snapshots=4",
    "train.snapshots_of=chains",
)  # fmt: skip


def local(folder, whole, report):
    """Local SGD that is stopped between two meetings goes on as if it had not been. Evaluations wait for meetings, of which the
    end of the run is one, also where it has become nearer."""
    alone, cut, short = folder / "local", folder / "local-cut", folder / "local-short"
    codes = [live(alone, options=LOCAL)]
    for step in (4, 5):  # before the chains meet, and in the step at whose end they do
        with signalled(Engine, "update", step, signal.SIGTERM, (0,)):
            codes.append(live(cut, options=LOCAL))
        if RANK == 0 and step == 4:
            shutil.copytree(cut, short)
    codes += [live(cut, options=LOCAL), live(short, "train.max_steps=5", "train.snapshots=2", options=LOCAL)]
    again = codes == [ExitCode.OK, ExitCode.REQUEUE, ExitCode.REQUEUE, ExitCode.OK, ExitCode.OK]
    report["local"] = again and same(cut, alone)
    found = ([folder / "model.safetensors" for folder in members_of(run / "model", "")] for run in (alone, cut))
    members, others = ([*map(load_file, files)] for files in found)
    kept = load_file(alone / "model" / "model.safetensors")
    report["members"] = len(members) == 4 and all(
        torch.equal(one[name], other[name]) for one, other in zip(members, others, strict=True) for name in kept
    )
    report["a member a chain"] = all(torch.equal((members[2][name] + members[3][name]) / 2, kept[name]) for name in kept)
    weights = [member["classifier.dense.weight"] for member in members]
    report["apart"] = not torch.equal(*weights[:2]) and not torch.equal(*weights[2:])
    report["mixture"] = json.loads((alone / "results.json").read_text())["mixture"]["members"] == [6, 6, 8, 8]
    evaluated = [[record["step"] for record in steps(run) if record["event"] == "evaluation"] for run in (alone, cut, short)]
    report["evaluations wait"] = evaluated == [[3, 6, 8], [3, 6, 8], [3, 5]]
    model = load_file(short / "model" / "model.safetensors")
    mean = whole_weights(cut / "checkpoints" / name_of(5), "theta", {name: value.shape for name, value in model.items()})
    report["ends in a meeting"] = all(torch.equal(value, model[name]) for name, value in mean.items()) and len(mean) > 10


CHAPTERS = {"ended": ended, "local": local, "interrupted": interrupted, "damaged": damaged, "changed": changed}


def main():
    folder, report = Path(sys.argv[2]), {}
    whole = folder / "whole"
    assert live(whole) == 0
    for chapter in sys.argv[3:]:
        CHAPTERS[chapter](folder, whole, report)
    if RANK == 0:
        Path(sys.argv[1]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
