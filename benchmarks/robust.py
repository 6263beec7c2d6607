"""Trains one encoder with several methods at equal work, evaluates each under the same attacks, and prints the table of it.

    python -m benchmarks.robust --model FOLDER --data FOLDER --work FOLDER [--budget N] [--json FILE]

Two runs at a time, one thread each. A run or an evaluation that is there already is not made again. The work of a run is
`train.budget`, in forward passes of one example; one seed, so that small differences say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMON = ("task=sst2", "data.train_limit=8000", "data.eval_limit=400", "data.max_length=64", "train.batch_size=32", "seed=0",
          "optimizer.lr=5e-5", "optimizer.warmup_ratio=0.1", "train.eval_per_epoch=0", "train.export=last",
          "tracking.uri=none")  # fmt: skip
AUGMENTED = ("data.augment.share=0.5",
             "data.augment.kinds=[homoglyph,invisible,spacing,leetspeak,swap,keyboard,benign_words]")  # fmt: skip
VISIBLE = (
    "method.name=mat", "method.lam=3", "method.semantics=released", "method.delta_noise=0", "method.delta_projection=clamp",
    "method.dropout=off", "method.theta_dropout=frozen", "method.delta_steps=3", "method.theta_steps=3",
)  # fmt: skip
METHODS = {
    "vanilla": ("method.name=vanilla",),
    "R-Drop": ("method.name=rdrop",),
    "FreeLB": ("method.name=freelb", "method.delta_steps=4", "method.delta_lr=2.5e-2", "method.delta_init_norm=0.4"),
    "MAT, radius 2e-3": (*VISIBLE, "method.delta_max_norm=2e-3", "method.delta_init_scale=1e-3"),
    "MAT, radius 1e-2": (*VISIBLE, "method.delta_max_norm=1e-2", "method.delta_init_scale=5e-3", "method.delta_lr=5e-3"),
    "vanilla, augmented": ("method.name=vanilla", *AUGMENTED),
    "FreeLB, augmented": (
        "method.name=freelb", "method.delta_steps=4", "method.delta_lr=2.5e-2", "method.delta_init_norm=0.4", *AUGMENTED,
    ),
}  # fmt: skip
ATTACKED = ("attack.radii=[1e-3,3e-3]", "noise.rates=[]", "text_attack.names=[characters,benign_words,hotflip]",
            "text_attack.limit=40")  # fmt: skip


def command(*arguments: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "mat_ds.cli", *arguments], cwd=ROOT, env=environment, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stdout.decode()[-1000:]}\n{done.stderr.decode()[-2000:]}")


def measured(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Trains and evaluates a method; returns its row."""
    run = asked.work / name.replace(" ", "-").replace(",", "")
    if not (run / "results.json").exists():
        own = (f"output_dir={run}", f"model.name={asked.model}", f"data.path={asked.data}", f"train.budget={asked.budget}")
        command("train", "--ds_config", "zero1", *COMMON, *own, "train.micro_batch_size=32", *METHODS[name])
    if not (run / "evaluation").exists():
        command("evaluate", str(run), *ATTACKED)
    report = json.loads((run / "evaluation" / "robustness.json").read_text())["splits"]["validation"]
    results, texts = json.loads((run / "results.json").read_text()), report["text_attacks"]
    row = {"method": name, "steps": results["steps"], "accuracy": report["clean"]["accuracy"]}
    row |= {f"linf {point['radius']:g}": point["accuracy"] for point in report["attack"][1:]}
    row |= {attack: found["robust_accuracy"] for attack, found in texts.items()}
    row |= {name: report["calibration"]["before"][name] for name in ("ece", "nll")}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--data", "--work"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument(
        "--budget", type=int, default=28_800, help="forward passes of one example (28,800: 300 steps of vanilla)"
    )
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda name: measured(name, asked), METHODS))
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        print("| " + " | ".join(cells) + " |")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
