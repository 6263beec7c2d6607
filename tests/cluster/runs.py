"""The small run that is trained on the cluster, and functions that observe it from outside."""

import json

import psutil

from mat_ds.storage.events import read_events
from mat_ds.storage.rundir import RunDirectory
from tests.cluster.hosts import wait_until

STEPS = 24
OPTIONS = (
    "--ds_config", "ds_configs/zero2.json", "data.train_limit=96", "data.eval_limit=24", "train.batch_size=16",
    "train.micro_batch_size=4", f"train.max_steps={STEPS}", "train.save_every=6", "train.eval_per_epoch=1",
    "train.telemetry_every=0", "model.dropout=0.1", "method.delta_steps=2", "method.theta_steps=2",
    "tracking.uri=none",
)  # fmt: skip
# Two minutes or more of training, for faults that SLURM takes half a minute to notice.
LONG = ("method.theta_steps=20", "train.max_steps=120", "train.save_every=1")
# One rank per node, on a CPU.
SMALL = ("--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")


class Run:
    """A run directory, and the file next to it with the output of its ranks."""

    def __init__(self, path):
        self.path, self.log = path, path.with_name(f"{path.name}.log")
        files = RunDirectory(path)
        self.interrupted, self.events = files.interrupted, files.events

    def submit(self, slurm, script, *more, options=()):
        """Submits a batch script as a user would; returns the job's number."""
        command = (*SMALL, f"--output={self.log}", *more, f"slurm/{script}", "--", *OPTIONS)
        return slurm.submit(*command, f"output_dir={self.path}", *options)

    def printed(self):
        return self.log.read_text()[-6000:] if self.log.exists() else "(nothing printed)"

    def records(self):
        return read_events(self.events)

    def log_of_training(self):
        """Its logged events, without speeds and monitoring."""
        measured = {"samples_per_second", "tokens_per_second", "seconds", "time"}
        looking_on = ("start", "checkpoint", "telemetry", "system", "end")
        return [{k: v for k, v in r.items() if k not in measured} for r in self.records() if r.get("event") not in looking_on]

    def steps(self):
        """The logged outer steps, in order."""
        return [record["step"] for record in self.records() if record["event"] == "step"]

    def results(self):
        return json.loads((self.path / "results.json").read_text())

    def starts(self):
        """How often it was started."""
        return len(json.loads((self.path / "environment.json").read_text())["starts"])

    def wait_for_steps(self, count=3):
        """Waits until it has made `count` outer steps."""
        wait_until(lambda: len(self.steps()) >= count, 400, f"{count} steps\n{self.printed()}")

    def wait_for_a_second_life(self):
        """Waits until it was started again and has made new steps."""
        before = len(self.steps())
        wait_until(lambda: self.starts() == 2 and len(self.steps()) > before, 400, f"it continues\n{self.printed()}")

    def is_seamless(self):
        """Whether no step is missing or repeated."""
        return self.steps() == list(range(1, len(self.steps()) + 1))

    def wait_until_gone(self):
        """Waits until none of its processes runs on any host."""

        def gone():
            return not any(str(self.path) in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))

        wait_until(gone, 120, "its processes end")

    def ended_like(self, other):
        """Whether two runs have equal weights, bit for bit, and equal logs."""
        ours, theirs = ((run.path / "model" / "model.safetensors").read_bytes() for run in (self, other))
        return ours == theirs and self.log_of_training() == other.log_of_training()
