"""Compares all methods, and the controls that attribute MAT's gain, on CoLA and MRPC with a small encoder.

    python benchmarks/rivals.py RESULTS.jsonl --model <folder> --data <folder> [--seeds 2] [--jobs 2]
    python benchmarks/rivals.py RESULTS.jsonl --table

`--jobs` processes with one thread each make the runs. RESULTS.jsonl gets a line per finished run, and runs with a line are
not made again, so that an interrupted command can be continued. `--table` prints the lines as Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

from mat_ds.storage.events import read_events

ROOT = Path(__file__).parents[1]
COMMON = [
    "optimizer.lr=2e-4",
    "optimizer.weight_decay=0.01",
    "train.eval_per_epoch=2",
    "train.eval_micro_batch_size=32",
    "data.max_length=64",
    "data.group_by_length=true",
    "train.save_every=1000000",
    "train.telemetry_every=40",
    "tracking.uri=none",
]
TASKS = {
    "cola": ["data.train_limit=3200", "train.batch_size=32", "train.micro_batch_size=32"],
    "mrpc": ["data.train_limit=480", "train.batch_size=16", "train.micro_batch_size=16"],
}
EPOCHS = 2
MAT = ["method.name=mat", "method.delta_steps=1", "method.theta_steps=2", "method.lam=3"]
# A third of the radius published for RoBERTa-large: at 0.3 this encoder learns nothing on CoLA.
BALL = ["method.delta_lr=0.03", "method.delta_init_norm=0.06", "method.delta_max_norm=0.1"]
VISIBLE = [
    "method.dropout=off",
    "method.theta_dropout=frozen",
    "method.delta_projection=clamp",
    "method.delta_max_norm=2e-3",
    "method.delta_init_scale=1e-3",
    "method.delta_lr=2e-3",
    "method.delta_noise=0",
]
# label -> (options, epochs): the last five are the controls.
METHODS: dict[str, tuple[list[str], int]] = {
    "vanilla": (["method.name=vanilla"], EPOCHS),
    "FreeLB": (["method.name=freelb", "method.delta_steps=2", *BALL], EPOCHS),
    "PGD": (["method.name=pgd", "method.delta_steps=2", *BALL], EPOCHS),
    "FreeAT": (["method.name=freeat", "method.delta_steps=2", *BALL], EPOCHS),
    "SMART": (["method.name=smart", "method.lam=3"], EPOCHS),
    "ALUM": (["method.name=alum", "method.lam=3"], EPOCHS),
    "R-Drop": (["method.name=rdrop", "method.alpha=1"], EPOCHS),
    "R3F": (["method.name=r3f"], EPOCHS),
    "R4F": (["method.name=r4f"], EPOCHS),
    "SALT": (["method.name=salt", "method.lam=3"], EPOCHS),
    "MAT": (MAT, EPOCHS),
    "MAT, visible adversary": ([*MAT, *VISIBLE], EPOCHS),
    "MAT, lam = 0": ([*MAT, "method.lam=0"], EPOCHS),
    "MAT, delta = 0": ([*MAT, "method.delta_steps=0", "method.delta_init=zero"], EPOCHS),
    "vanilla, 2 x the updates": (["method.name=vanilla"], 2 * EPOCHS),
    "R-Drop, 2 x the updates": (["method.name=rdrop", "method.alpha=1"], 2 * EPOCHS),
}


def run(task: str, method: str, seed: int, model: Path, data: Path) -> dict[str, object]:
    """Makes a run in this process and returns its scores; `seconds` is processor time, with evaluations."""
    options, epochs = METHODS[method]
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "data" / task  # without the test split, which would be predicted
        own.mkdir(parents=True)
        for split in ("train", "validation"):
            (own / f"{split}.jsonl").symlink_to((data / task / f"{split}.jsonl").resolve())
        command = [
            "--ds_config",
            str(ROOT / "ds_configs" / "zero2.json"),
            f"task={task}",
            f"seed={seed}",
            f"model.name={model}",
            f"data.path={own.parent}",
            f"output_dir={folder}/run",
            f"train.epochs={epochs}",
            *COMMON,
            *TASKS[task],
            *options,
        ]
        before, said = time.process_time(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main_of_training()(command)
        if code:
            raise RuntimeError(f"{task}, {method}, seed {seed} ended with {code}:\n{said.getvalue()[-2000:]}")
        seconds = time.process_time() - before
        results = json.loads((Path(folder) / "run" / "results.json").read_text())
        records = read_events(Path(folder) / "run" / "events.jsonl")
    telemetry = [record for record in records if record["event"] == "telemetry"][-1]
    scores = {name: results[name]["score"] for name in ("last", "best")}
    return {
        "task": task,
        "method": method,
        "seed": seed,
        **scores,
        "median": results["median_last_half"],
        "seconds": round(seconds, 1),
        **{name: telemetry[name] for name in ("R", "R_without", "R_eval")},
    }


def main_of_training() -> Callable[[list[str]], int]:
    """The main function of training, imported once per process."""
    import torch

    from mat_ds.commands.train import main as train

    torch.set_num_threads(1)
    return train


def finished(results: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def run_all(arguments: argparse.Namespace) -> None:
    done = {(line["task"], line["method"], line["seed"]) for line in finished(arguments.results)}
    wanted = [(task, method, seed) for seed, task, method in product(range(arguments.seeds), TASKS, METHODS)]
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool, arguments.results.open("a") as out:
        runs = [pool.submit(run, *key, arguments.model, arguments.data) for key in wanted if key not in done]
        for ended in as_completed(runs):
            print(json.dumps(ended.result()), file=out, flush=True)
            print(ended.result(), flush=True)


def table(results: Path) -> None:
    """Means over the seeds in percent, with minimum and maximum of the median. There are no standard deviations, since there
    may be only two seeds."""
    lines = finished(results)
    print("| method | " + " | ".join(f"{task} last | best | median | s" for task in TASKS) + " |")
    print("|---" * (1 + 4 * len(TASKS)) + "|")
    for method in METHODS:
        cells = []
        for task in TASKS:
            own = [line for line in lines if line["task"] == task and line["method"] == method]
            shown = {name: [100 * float(str(line[name])) for line in own] for name in ("last", "best", "median")}
            spread = f" ({min(shown['median']):.1f} to {max(shown['median']):.1f})" if len(own) > 1 else ""
            cells += [f"{mean(values):.1f}" if values else "-" for values in shown.values()]
            cells[-1] += spread
            cells.append(f"{mean(float(str(line['seconds'])) for line in own):.0f}" if own else "-")
        print(f"| {method} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    table(arguments.results) if arguments.table else run_all(arguments)


if __name__ == "__main__":
    main()
