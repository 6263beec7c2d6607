"""Replaces launch/train.py in tests that need many trainings within seconds: it writes what training writes to a run directory,
and saves and stops when told to.

The environment variable `FAKE` is JSON that maps names of run directories to what happens in their first `times` starts (by
default in all): the run `dies_at` an outer step with exit `code` (default: killed by SIGKILL), `stops_at` a step as if told to
stop, or `waits_at` a step until it is told to."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from mat_ds.errors import Interrupted
from mat_ds.storage.disk import write_json, write_text
from mat_ds.storage.events import EventLog
from mat_ds.storage.lock import RunLock
from mat_ds.storage.rundir import RunDirectory, mark_interrupted

DEMO = Path(__file__).parents[2] / "launch" / "recipes" / "demo.yaml"
STEPS = 6


def score_at(lam, step):
    """Better the nearer lam is to 3, and the longer training takes."""
    return (1 - abs(lam - 3) / 10) * step / STEPS


def main(arguments):
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    run, lam = RunDirectory(Path(given["output_dir"])), float(given.get("method.lam", given.get("seed", 0)))
    plan = json.loads(os.environ.get("FAKE", "{}")).get(run.path.name, {})
    told = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: told.append(number))
    lock = RunLock()
    lock.acquire(run.path)
    run.create()
    options = yaml.safe_load(DEMO.read_text())
    for name, value in given.items():
        *sections, key = name.split(".")
        section = options
        for each in sections:
            section = section.setdefault(each, {})
        section[key] = yaml.safe_load(value)
    write_text(run.config, yaml.safe_dump(options))
    saved, lives = run.checkpoints / "step.json", run.path / "lives"
    done = json.loads(saved.read_text()) if saved.exists() else 0
    with lives.open("a") as file:
        file.write(f"{done}\n")
    if len(lives.read_text().splitlines()) > plan.get("times", 1000):
        plan = {}
    log = EventLog(run.events, done)
    evaluations = []
    for step in range(1, STEPS + 1):
        evaluations.append({"step": step, "score": score_at(lam, step), "validation": {"accuracy": score_at(lam, step)}})
        if step <= done:
            continue
        while step == plan.get("waits_at") and not told:
            time.sleep(0.05)
        time.sleep(0.05)
        if step == plan.get("dies_at"):
            print("this is why it died", flush=True)
            if "code" not in plan:
                os.kill(os.getpid(), signal.SIGKILL)
            lock.release()
            return plan["code"]
        log.log({"event": "step", "step": step, "loss": 1.0})
        log.log({"event": "evaluation", **evaluations[-1]})
        write_json(saved, step)
        if told or step == plan.get("stops_at"):
            mark_interrupted(run, Interrupted("a signal"))
            lock.release()
            return 75
    scores = [evaluation["score"] for evaluation in evaluations]
    results = {
        "task": "demo",
        "method": "mat",
        "last": evaluations[-1],
        "best": evaluations[-1],
        "median_last_half": sorted(scores)[-2],
        "export": {"score": scores[-1]},
    }
    write_json(run.results, results)
    lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
