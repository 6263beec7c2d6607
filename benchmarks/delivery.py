"""Whether runs reach MLflow from a busy machine, and how long their user waits for it.

    python -m benchmarks.delivery [runs] [--busy N]

trains the demo for a few steps, again and again, each time with an SQLite file of its own whose tables must be made first,
while N processes (default: 2) keep the processors busy: as at a terminal, where the rest is delivered in the background, and as
in a script, where the run waits for it.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from mat_ds.storage.events import read_events
from mat_ds.storage.rundir import RunDirectory
from tests.support.launch import ROOT, cli, environment
from tests.support.tracked import mirrors

STEPS = 10
OPTIONS = ("--ds_config", "ds_configs/zero2.json", "data.train_limit=640", "data.eval_limit=50", f"train.max_steps={STEPS}",
           "method.delta_steps=1", "method.theta_steps=1", "train.telemetry_every=0", "tracking.uri=null")  # fmt: skip
PATIENCE = 600.0


class Outcome(NamedTuple):
    """How one run ended.

    Attributes:
        prompt: seconds from its end event to the end of its process.
        seconds: from its end event until nothing of it was running any more.
        delivered: whether MLflow has it as finished, with every step.
        right: whether what was said about its delivery is true.
    """

    prompt: float
    seconds: float
    delivered: bool
    right: bool


def measure(folder: Path, terminal: bool) -> Outcome:
    """Trains once."""
    run, (master, slave) = folder / "run", pty.openpty()
    said: list[bytes] = []
    command = cli(*OPTIONS, f"output_dir={run}")
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=slave if terminal else subprocess.PIPE, start_new_session=True)  # fmt: skip
    os.close(slave)
    source = master if terminal else process.stderr.fileno()  # type: ignore[union-attr]
    reader = threading.Thread(target=_read, args=(source, said), daemon=True)
    reader.start()
    process.wait()
    left = time.time()
    reader.join()
    os.close(master)
    if process.returncode:
        raise RuntimeError(b"".join(said).decode()[-2000:])
    psutil.wait_procs(mirrors(RunDirectory(run)), PATIENCE)
    last, ended = time.time(), read_events(run / "events.jsonl")[-1]["time"]
    delivered = _is_delivered(folder)
    return Outcome(left - ended, last - ended, delivered, delivered is (b"tracking:" not in b"".join(said)))


def _read(source: int, said: list[bytes]) -> None:
    try:
        while data := os.read(source, 1 << 16):
            said.append(data)
    except OSError:  # a terminal whose last process has ended
        pass


def _is_delivered(folder: Path) -> bool:
    if not (folder / "mlflow.db").exists():
        return False
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    try:
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    except (MlflowException, SQLAlchemyError):  # tables are missing: the mirror was killed while it made them
        return False
    if [run.info.status for run in runs] != ["FINISHED"]:
        return False
    made = runs[0]
    return max(len(client.get_metric_history(made.info.run_id, name)) for name in made.data.metrics) == STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("--busy", type=int, default=2)
    parsed = parser.parse_args()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True) for _ in range(parsed.busy)]
    try:
        print("| as in | runs | delivered | told the truth | s until the prompt | s until delivered |")
        print("|---|---|---|---|---|---|")
        for name, terminal in (("a terminal", True), ("a script", False)):
            outcomes = []
            for _ in range(parsed.runs):
                with tempfile.TemporaryDirectory() as folder:
                    outcomes.append(measure(Path(folder), terminal))
            prompt, seconds = ([o.prompt for o in outcomes], [o.seconds for o in outcomes])
            print(
                f"| {name} | {parsed.runs} | {sum(o.delivered for o in outcomes)} | {sum(o.right for o in outcomes)} | "
                f"{statistics.median(prompt):.1f}, at most {max(prompt):.1f} | "
                f"{statistics.median(seconds):.1f}, at most {max(seconds):.1f} |",
                flush=True,
            )
    finally:
        for process in busy:
            process.kill()


if __name__ == "__main__":
    main()
