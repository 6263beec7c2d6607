"""Makes a run of the queue with `mat-ds train` and `mat-ds evaluate`, and its record."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from benchmarks.evidence.design import BEFORE, DATE, TASKS, Entry, Trial
from benchmarks.evidence.records import Record
from mat_ds.tasks import demo

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--ds_config", str(ROOT / "ds_configs" / "zero1.json")]
LABELS = ("no", "yes")
# Of 200 dev examples, as an attack costs more than the training if it has them all; at shares of the radius trained at, as at
# the whole of it nearly all answers turn.
MEASURED = ["limit=200", "noise.rates=[0.1]", "noise.kinds=[character_swap,word_drop]", "attack.steps=5"]
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
SECTIONS = ("method", "optimizer", "train", "loss")


class Stopped(Exception):
    """A command was told to stop, or failed; its exit code is the argument."""


class Runner:
    """Makes runs in a folder.

    Args:
        work: for runs and data; a run that was interrupted there goes on.
        model, data: folders of the pre-trained model and of `sst2/<split>.jsonl`; None leaves SST-2 out.
    """

    def __init__(self, work: Path, model: Path | None, data: Path | None):
        self._work, self._model, self._data = work, model, data

    def can_run(self, entry: Entry) -> bool:
        return entry.task == "grammar" or (self._model is not None and self._data is not None)

    def run(self, entry: Entry, trial: Trial) -> Record:
        """Makes a run and returns its record.

        Raises:
            Stopped: if a command ends with another code than 0; the same call goes on where it stood.
        """
        folder = self._work / entry.name
        options = entry.options(trial)
        began = time.time()
        model = self._base() if entry.task == "grammar" else self._model
        held_out = entry.trial is not None
        if not _ended(folder):
            own = [
                *options,
                f"model.name={model}",
                *self._files(entry.task, held_out),
                f"output_dir={folder}",
                "train.resume=auto",
            ]
            _command([*TRAIN, *own])
        measured = {} if held_out else self._evaluate(folder, TASKS[entry.task].radius)
        return {
            "name": entry.name, "task": entry.task, "arm": entry.arm, "seed": entry.seed,
            "trial": None if entry.trial is None else str(entry.trial), "chosen": None if held_out else str(trial),
            "design": DATE, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "wall_seconds": round(time.time() - began), "options": options,
            "model": "tiny-roberta, trained before" if entry.task == "grammar" else Path(str(model)).name,
            **_what_ran(folder), **_endpoints(folder, measured),
        }  # fmt: skip

    def forget(self, entry: Entry) -> None:
        """Removes the files of a run that has a record."""
        shutil.rmtree(self._work / entry.name, ignore_errors=True)

    def _base(self) -> Path:
        """The model that all runs on the grammar start from, trained once."""
        folder = self._work / "grammar-base"
        if not _ended(folder):
            rows = list(demo.rows("train"))[:BEFORE]
            files = [f"data.train={_write(self._work / 'data' / 'before.jsonl', rows)}", *self._columns()]
            options = ["method.name=vanilla", "model.name=tiny-roberta", "model.dropout=0", "optimizer.lr=1e-3", "seed=1000",
                       "train.epochs=3", "train.batch_size=64", "train.micro_batch_size=64", "train.export=last",
                       "train.eval_per_epoch=0", "data.max_length=32", "tracking.uri=none"]  # fmt: skip
            _command([*TRAIN, *options, *files, f"output_dir={folder}", "train.resume=auto"])
        return folder / "model"

    def _files(self, task: str, held_out: bool) -> list[str]:
        """The data as options: the dev set, or in its place a tenth of the training rows."""
        folder = self._work / "data" / task
        if task == "grammar":
            train, dev = list(demo.rows("train"))[BEFORE:], list(demo.rows("validation"))
        else:
            assert self._data is not None
            train, dev = (_read(self._data / task / f"{split}.jsonl") for split in ("train", "validation"))
        rows = TASKS[task].rows
        found = [f"data.train={_write(folder / f'train-{rows}.jsonl', train[:rows])}", *self._columns()]
        return [*found, "data.dev_share=0.1" if held_out else f"data.validation={_write(folder / 'validation.jsonl', dev)}"]

    @staticmethod
    def _columns() -> list[str]:
        return ["data.text=sentence", "data.label=label", f"data.labels=[{','.join(LABELS)}]"]

    def _evaluate(self, folder: Path, radius: float) -> Record:
        out = folder / "evaluation"
        if not (out / "robustness.json").exists():
            radii = ",".join(f"{radius * share:g}" for share in SHARES)
            _command(["evaluate", str(folder), *MEASURED, f"attack.radii=[{radii}]", f"output_dir={out}"])
        found: Record = json.loads((out / "robustness.json").read_text())
        return {"examples": found["data"]["examples"]["validation"], **found["splits"]["validation"]}


def _command(words: Sequence[str]) -> None:
    """Runs a command of mat_ds; if this process is told to stop, by Ctrl+C or SIGTERM, so is the command, which saves."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mat_ds.cli", *words, "--quiet"], env=environment, cwd=ROOT, start_new_session=True
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise Stopped(75) from None
    if code:
        raise Stopped(code)


def _ended(folder: Path) -> bool:
    results = folder / "results.json"
    return results.exists() and "score" in json.loads(results.read_text()).get("export", {})


def _write(path: Path, rows: Sequence[Record]) -> Path:
    """Writes rows with words for labels, once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"sentence": row["sentence"], "label": LABELS[row["label"]]}) for row in rows]
        aside = path.with_suffix(f".{os.getpid()}")
        aside.write_text("\n".join(lines) + "\n")
        aside.rename(path)
    return path.absolute()


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _what_ran(folder: Path) -> Record:
    """Configuration without paths, commit and machine."""
    config, environment = (
        yaml.safe_load((folder / "config.yaml").read_text()),
        json.loads((folder / "environment.json").read_text()),
    )
    processor = next((line.partition(": ")[2] for line in _cpuinfo() if line.startswith("model name")), platform.processor())
    packages = environment.get("packages", {})
    return {
        "config": {section: config[section] for section in SECTIONS if section in config},
        "commit": environment.get("git_commit"),
        "machine": {
            "processor": processor, "cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "1"),
            "devices": environment.get("devices"), "python": platform.python_version(),
            **{name: packages.get(name) for name in ("torch", "transformers", "deepspeed")},
        },
    }  # fmt: skip


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _endpoints(folder: Path, measured: Record) -> Record:
    """The endpoints in points, and the NLL of each dev example, from which NLL and accuracy are compared example by example."""
    results = json.loads((folder / "results.json").read_text())
    (predictions,) = (folder / "predictions").glob("*.jsonl")
    lines = _read(predictions)
    gold = np.array([line["gold"] == LABELS[1] for line in lines])
    yes = np.array([line["probabilities"][LABELS[1]] for line in lines])
    nll = -np.log(np.maximum(np.where(gold, yes, 1 - yes), 1e-12))
    (calibration,) = results["calibration"]["splits"].values()
    found = {
        "nll": 100 * float(nll.mean()), "auc": 100 * float(roc_auc_score(gold, yes)),
        "accuracy": 100 * float(((yes > 0.5) == gold).mean()), "mcc": 100 * float(matthews_corrcoef(gold, yes > 0.5)),
        "ece": 100 * calibration["before"]["ece"], "seconds": results["seconds"], "steps": results["steps"],
    }  # fmt: skip
    if measured:
        clean, turned = measured["clean"]["accuracy"], [point["broken"] for point in measured["attack"][1:]]
        noisy = [point["accuracy"] for points in measured["noise"].values() for point in points]
        found["noise"] = 100 * (clean - float(np.mean(noisy)))
        found["attack"] = 100 * float(np.mean(turned)) / max(clean * measured["examples"], 1)
    return {"dev_sha256": results["dev_sha256"], "endpoints": found, "nll_by_example": [round(float(one), 4) for one in nll]}
