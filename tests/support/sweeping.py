"""Sweeps with trainings of one second, and helpers to observe them from outside."""

import json
import subprocess
import sys
import time

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mat_ds.commands.sweep import main
from tests.support.launch import ROOT, environment
from tests.support.processes import Process

FAKE = f"{sys.executable} {ROOT}/tests/support/fake_trainer.py"
GRID = {"options": {"method.lam": {"choices": [3.0, 1.0, 5.0]}}, "sampler": "grid", "pruner": "none"}


class Sweep:
    """A sweep in a folder of its own."""

    def __init__(self, folder, space):
        self.folder, self.file = folder / "a sweep", folder / "space.yaml"
        self.write(space)

    def write(self, space):
        self.file.write_text(yaml.safe_dump(space))

    def arguments(self, *more):
        return ["--space", str(self.file), "--launcher", FAKE, f"output_dir={self.folder}", *more]

    def run(self, *more):
        return main(self.arguments(*more))

    def start(self, *more, out=subprocess.DEVNULL):
        """Starts a worker process."""
        command = [sys.executable, "-m", "mat_ds.cli", "sweep", *self.arguments(*more)]
        return Process(command, env=environment(), cwd=ROOT, stdout=out)

    def trials(self):
        storage = JournalStorage(JournalFileBackend(str(self.folder / "journal.log")))
        return optuna.load_study(study_name="sweep", storage=storage).get_trials()

    def states(self):
        return [trial.state.name for trial in self.trials()]

    def lives(self, number):
        """The step at which each start of a trial began."""
        path = self.folder / f"trial-{number:04}" / "lives"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def steps(self, number):
        """The outer steps of a trial, in order."""
        records = (self.folder / f"trial-{number:04}" / "events.jsonl").read_text().splitlines()
        return [record["step"] for record in map(json.loads, records) if record["event"] == "step"]


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def plan(monkeypatch, **plans):
    monkeypatch.setenv("FAKE", json.dumps({name.replace("_", "-"): what for name, what in plans.items()}))
