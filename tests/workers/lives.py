"""Worker: the same small run, interrupted, damaged and continued in many ways, against one that was left alone.

Each start is a call of launch/train.py's `main`; interruptions are real signals.
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

from mat_ds.engine import checkpoint
from mat_ds.engine.engine import Engine
from mat_ds.errors import ExitCode
from mat_ds.storage.checkpoints import name_of
from mat_ds.storage.lock import LOCK
from mat_ds.storage.owner import Owner, process_stat
from tests.support.expected import few
from tests.workers.lives_of_chains import local, rounded
from tests.workers.living import RANK, RANKS, live, saved, signalled
from tests.workers.small_run import STEPS, same

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


CHAPTERS = {
    "ended": ended,
    "local": local,
    "rounded": rounded,
    "interrupted": interrupted,
    "damaged": damaged,
    "changed": changed,
}


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
