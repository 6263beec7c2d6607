"""Makes a run of the queue with `mat-ds train` and `mat-ds evaluate`, and its record."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from benchmarks.evidence.arms import Trial
from benchmarks.evidence.design import DATE, TUNING_SEED, Entry
from benchmarks.evidence.measured import LABELS, endpoints, read_lines
from benchmarks.evidence.records import Record
from benchmarks.evidence.tasks import BEFORE, RADII, SST2, TASKS, Task
from mat_ds.storage.disk import write_text
from mat_ds.tasks import demo

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "--ds_config", str(ROOT / "ds_configs" / "zero1.json")]
# Of 200 dev examples, as an attack costs more than the training if it has them all; at shares of the radius trained at, as at
# the whole of it nearly all answers turn.
MEASURED = ["limit=200", "noise.rates=[0.1]", "noise.kinds=[character_swap,word_drop]", "attack.steps=5"]
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
SECTIONS = ("method", "optimizer", "train", "loss")


class Stopped(Exception):
    """A command was told to stop, or failed; its exit code is the argument."""


class NoRadius(Exception):
    """A task at whose radii the perturbation never makes three times what dropout does."""


class Runner:
    """Makes runs in a folder.

    Args:
        work: for runs and data; a run that was interrupted there goes on.
        models, data: folders of the pre-trained models and of `<task>/<split>.jsonl`; without them only the grammar is run.
    """

    def __init__(self, work: Path, models: Path | None, data: Path | None):
        self._work, self._models, self._data = work, models, data

    def lacks(self, name: str) -> str | None:
        """What a task needs and does not have, in words; None if its model and its data are there."""
        task = TASKS[name]
        if not task.data:
            return None
        if self._models is None or self._data is None:
            return "it needs --models and --data"
        needed = [self._models / task.model / "config.json", self._models / task.model / "model.safetensors"]
        needed += [self._data / task.data / f"{split}.jsonl" for split in ("train", "validation")]
        return next((f"there is no {path}" for path in needed if not path.is_file()), None)

    def radius(self, name: str, records: Sequence[Record]) -> float:
        """The radius of a task: as given, or of its records, or measured once.

        Raises:
            Stopped: if the command that measures it ends with another code than 0.
            NoRadius: if it is none of `RADII`.
        """
        task = TASKS[name]
        known = (one["radius"] for one in records if one["task"] == name and one.get("radius") is not None)
        if found := task.radius or next(known, None):
            return float(found)
        out = self._work / "data" / f"{name}-radius.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        with (self._work / "data" / f"{name}-radius.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not out.exists():
                options = Entry(name, "mat_mixed_mixed", TUNING_SEED).options(Trial(0.5), SST2.radius)
                radii = ",".join(f"{one:g}" for one in RADII)
                words = ["radius", *options, f"model.name={self._model(task)}", *self._files(name, held_out=True)]
                found = _command([*words, "--steps", str(task.steps), "--radii", radii], "--json")
                write_text(out, found)
        smallest = json.loads(out.read_text())["smallest"]["fp32"]
        if smallest is None:
            raise NoRadius(f"R is three times that of dropout at none of the radii up to {RADII[-1]:g}; see {out}")
        return float(smallest)

    def run(self, entry: Entry, trial: Trial, radius: float | None) -> Record:
        """Makes a run and returns its record.

        Args:
            radius: of the task; None for a trial that does not perturb.

        Raises:
            Stopped: if a command ends with another code than 0; the same call goes on where it stood.
        """
        folder = self._work / entry.name
        options = entry.options(trial, radius)
        began = time.time()
        task = TASKS[entry.task]
        held_out = entry.trial is not None
        if not _ended(folder):
            own = [
                *options,
                f"model.name={self._model(task)}",
                *self._files(entry.task, held_out),
                f"output_dir={folder}",
                "train.resume=auto",
            ]
            _command([*TRAIN, *own])
        measured = {} if held_out or radius is None else self._evaluate(folder, task, radius)
        return {
            "name": entry.name, "task": entry.task, "arm": entry.arm, "seed": entry.seed,
            "trial": None if entry.trial is None else str(entry.trial), "chosen": None if held_out else str(trial),
            "design": DATE, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "wall_seconds": round(time.time() - began), "radius": radius, "options": options,
            "model": task.model or "tiny-roberta, trained before", "model_sha256": self._model_sha256(task),
            **_what_ran(folder), **endpoints(folder, measured),
        }  # fmt: skip

    def forget(self, entry: Entry) -> None:
        """Removes the files of a run that has a record."""
        shutil.rmtree(self._work / entry.name, ignore_errors=True)

    def _model(self, task: Task) -> Path:
        return self._models / task.model if self._models and task.model else self._base()

    def _model_sha256(self, task: Task) -> str:
        with (self._model(task) / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _base(self) -> Path:
        """The model that all runs on the grammar start from, trained once."""
        folder = self._work / "grammar-base"
        if not _ended(folder):
            rows = list(demo.rows("train"))[:BEFORE]
            task = TASKS["grammar"]
            files = [f"data.train={_write(self._work / 'data' / 'before.jsonl', rows, task)}", *_columns(task)]
            options = ["method.name=vanilla", "model.name=tiny-roberta", "model.dropout=0", "optimizer.lr=1e-3", "seed=1000",
                       "train.epochs=3", "train.batch_size=64", "train.micro_batch_size=64", "train.export=last",
                       "train.eval_per_epoch=0", "data.max_length=32", "tracking.uri=none"]  # fmt: skip
            _command([*TRAIN, *options, *files, f"output_dir={folder}", "train.resume=auto"])
        return folder / "model"

    def _files(self, name: str, held_out: bool) -> list[str]:
        """The data as options: the dev set, or in its place a tenth of the training rows."""
        task, folder = TASKS[name], self._work / "data" / name
        if not task.data:
            train, dev = list(demo.rows("train"))[BEFORE:], list(demo.rows("validation"))
        else:
            assert self._data is not None
            train, dev = (read_lines(self._data / task.data / f"{split}.jsonl") for split in ("train", "validation"))
        rows = task.rows or len(train)
        files = [f"data.train={_write(folder / f'train-{rows}.jsonl', train[:rows], task)}"]
        files += ["data.dev_share=0.1" if held_out else f"data.validation={_write(folder / 'validation.jsonl', dev, task)}"]
        return [*files, *_columns(task)]

    def _evaluate(self, folder: Path, task: Task, radius: float) -> Record:
        out = folder / "evaluation"
        if not (out / "robustness.json").exists():
            radii = [] if task.scores else [f"{radius * share:g}" for share in SHARES]
            _command(["evaluate", str(folder), *MEASURED, f"attack.radii=[{','.join(radii)}]", f"output_dir={out}"])
        found: Record = json.loads((out / "robustness.json").read_text())
        return {"examples": found["data"]["examples"]["validation"], **found["splits"]["validation"]}


def _columns(task: Task) -> list[str]:
    return [f"data.text={','.join(task.text)}", "data.label=label", f"data.labels=[{'' if task.scores else ','.join(LABELS)}]"]


def _command(words: Sequence[str], display: str = "--quiet") -> str:
    """Runs a command of mat_ds and returns what it prints with `--json`.

    If this process is told to stop, by Ctrl+C or SIGTERM, so is the command, which saves.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mat_ds.cli", *words, display], env=environment, cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE if display == "--json" else None, text=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise Stopped(75) from None
    if process.returncode:
        raise Stopped(process.returncode)
    return printed or ""


def _ended(folder: Path) -> bool:
    results = folder / "results.json"
    return results.exists() and "score" in json.loads(results.read_text()).get("export", {})


def _write(path: Path, rows: Sequence[Record], task: Task) -> Path:
    """Writes rows, with words for labels that are no scores."""
    labels = [row["label"] if task.scores else LABELS[row["label"]] for row in rows]
    texts = [{column: row[column] for column in task.text} for row in rows]
    lines = [json.dumps({**text, "label": label}) + "\n" for text, label in zip(texts, labels, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(lines))
    return path.absolute()


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
