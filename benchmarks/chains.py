"""Dev scores of several chains of the parameters, one on each of two ranks, at equal work, paired by seed.

    python -m benchmarks.chains [--model FOLDER --data FOLDER] [--seeds N] [--only TASK] [--json FILE] [--table]

The two ranks stand for two nodes: what crosses a slow link crosses between them. `demo` needs nothing and compares what chains
can do with the optimizer's moments; `sst2` needs a model, and a folder with `sst2/<split>.jsonl`. Runs are made one by one and
appended to the file; what is in it is not made again. `--table` only prints what it says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mat_ds.reports.paired import paired

ROOT = Path(__file__).parents[1]
COMMON = ("train.eval_per_epoch=0", "train.export=last", "train.telemetry_every=10", "tracking.uri=none")
TASKS = {
    "demo": ("--recipe", str(ROOT / "launch" / "recipes" / "demo.yaml"), "train.max_steps=120", "train.micro_batch_size=32"),
    # MAT as in benchmarks/evidence, fewer steps.
    "sst2": (
        "task=sst2", "data.train_limit=4000", "data.max_length=48", "train.max_steps=24", "train.batch_size=32",
        "train.micro_batch_size=16", "optimizer.lr=2e-4", "method.name=mat", "method.delta_steps=3", "method.theta_steps=3",
        "method.lam=1", "method.dropout=frozen", "method.theta_dropout=frozen", "method.delta_gradient=sign",
        "method.delta_projection=clamp", "method.delta_noise=2e-3", "method.delta_max_norm=3e-3",
    ),
}  # fmt: skip
CHAINS = ("method.chains=per_rank",)
ARMS: dict[str, dict[str, tuple[str, ...]]] = {
    "demo": {"one": (), "own moments": CHAINS, "averaged moments": (*CHAINS, "method.chains_moments=average")},
    "sst2": {"one": (), "per_rank": CHAINS},
}
# Arm and what it is compared with.
PAIRS = {
    "demo": (("own moments", "one"), ("averaged moments", "one"), ("averaged moments", "own moments")),
    "sst2": (("per_rank", "one"),),
}
MEASURES = ("score", "loss")


def made(task: str, arm: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Trains a run; returns its record, with score and loss on the dev set in hundredths."""
    options = [*TASKS[task], *ARMS[task][arm], *COMMON, f"seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        own = [f"output_dir={run}", *([f"model.name={asked.model}", f"data.path={asked.data}"] if task == "sst2" else [])]
        command = [sys.executable, "-m", "mat_ds.cli", "train", "--ranks", "2", "--ds_config", "zero1", *options, *own]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        results, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("results", "environment"))
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    apart = [event["chains_apart"] for event in events if event.get("chains_apart") is not None]
    last, packages = results["last"], environment["packages"]
    return {
        "task": task, "arm": arm, "seed": seed, "options": [option.replace(f"{ROOT}/", "") for option in options],
        "steps": results["steps"], "score": 100 * last["score"], "loss": 100 * last["validation"]["loss"],
        "chains_apart": apart[-1] if apart else None, "seconds": results["seconds"], "commit": environment["git_commit"],
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(),
                    **{name: packages.get(name) for name in ("torch", "transformers", "deepspeed")}},
    }  # fmt: skip


def table(records: Sequence[Mapping[str, Any]]) -> None:
    """Prints the mean of each arm, and the differences of the pairs over the seeds that both have."""
    for task, arms in ARMS.items():
        of = {arm: {r["seed"]: r for r in records if (r["task"], r["arm"]) == (task, arm)} for arm in arms}
        print(f"\n| {task} | seeds | {' | '.join(MEASURES)} |\n|---|---|{'---|' * len(MEASURES)}")
        for arm, runs in of.items():
            means = [f"{np.mean([run[name] for run in runs.values()]):.2f}" if runs else "" for name in MEASURES]
            print(f"| {arm} | {len(runs)} | {' | '.join(means)} |")
        for arm, against in PAIRS[task]:
            if seeds := sorted(of[arm].keys() & of[against].keys()):
                cells = [judged([of[arm][s][name] - of[against][s][name] for s in seeds]) for name in MEASURES]
                print(f"| {arm} − {against} | {len(seeds)} | {' | '.join(cells)} |")


def judged(differences: list[float]) -> str:
    found = paired(np.array(differences))
    interval = f" [{found.low:+.2f}, {found.high:+.2f}], p {found.p:.2f}" if found.low is not None else ""
    return f"{found.mean:+.2f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=[*TASKS])
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    records = [json.loads(line) for line in asked.json.read_text().splitlines()] if asked.json.exists() else []
    there = {(record["task"], record["arm"], record["seed"]) for record in records}
    tasks = [task for task in TASKS if asked.only in (None, task) and (task == "demo" or (asked.model and asked.data))]
    # All arms of a seed before the next seed.
    queue = [(task, arm, seed) for task in tasks for seed in range(asked.seeds) for arm in ARMS[task]]
    for task, arm, seed in () if asked.table else queue:
        if (task, arm, seed) not in there:
            records.append(made(task, arm, seed, asked))
            with asked.json.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")
            print({name: records[-1][name] for name in ("task", "arm", "seed", *MEASURES, "seconds")}, flush=True)
    table(records)


if __name__ == "__main__":
    main()
