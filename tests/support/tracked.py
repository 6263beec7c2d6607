"""Run directories made without training, and queries for what MLflow stores of a run."""

import json
import shutil
import time
from dataclasses import replace

import psutil
import yaml

from mat_ds.storage.events import EventLog
from mat_ds.storage.lock import LOCK
from mat_ds.storage.owner import Owner, process_stat
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import RUN_ID
from mat_ds.tracking.mirrored import own_id

EVALUATION = {"score": 0.5, "validation": {"accuracy": 0.5}, "average": {"score": 0.75, "validation": {"accuracy": 0.75}}}


def make_run(path, uri=None, options=(), **tracking):
    """A run directory as rank 0 opens it."""
    run = RunDirectory(path)
    path.mkdir(parents=True)
    run.create()
    config = {
        "task": "demo",
        "output_dir": str(path),
        "model": {"lora": None},
        "train": {"epochs": 3.0, "max_steps": None},
        "tracking": {"uri": uri, "experiment": "mat_ds", "run_name": None, "tags": {}, "register": None, **tracking},
        **dict(options),
    }
    run.config.write_text(yaml.safe_dump(config))
    environment = {
        "command": ["launch/train.py"],
        "world_size": 2,
        "devices": ["cpu"],
        "git_commit": "c0ffee",
        "packages": {"torch": "2.13.0"},
        "data_sha256": "da7a",
        "starts": [{"changed": {}}],
        "deepspeed_config": {"train_batch_size": 8, "fp16": {"enabled": True}},
    }
    run.environment.write_text(json.dumps(environment))
    return run


def resume(run, **train):
    """Updates the files as a later start does that changes options of `train`."""
    config, environment = yaml.safe_load(run.config.read_text()), json.loads(run.environment.read_text())
    changed = {f"train.{key}": [config["train"][key], value] for key, value in train.items()}
    config["train"] |= train
    environment["starts"].append({"changed": changed})
    run.config.write_text(yaml.safe_dump(config))
    run.environment.write_text(json.dumps(environment))


def live(run, first, last, status="FINISHED", loss=lambda step: 1 / step):
    """Logs one start of the run: steps `first` to `last`, and its end if `status` is given."""
    log = EventLog(run.events, first - 1)
    for step in range(first, last + 1):
        log.log(
            {"event": "step", "step": step, "loss": loss(step), "gradient_norm": None, "samples_per_second": time.time() % 1}
        )
        if step % 2 == 0:
            log.log({"event": "telemetry", "step": step, "cosine": 0.5})
            log.log({"event": "evaluation", "step": step, **EVALUATION})
            log.log({"event": "system", "step": step, "rank_memory_mib": [100.0, 101.5], "cpu_percent": 50.0})
            log.log({"event": "checkpoint", "step": step, "seconds": 0.1, "bytes": 1000})
    if status:
        results = {"task": "demo", "steps": last, "best": {"step": 2, "score": 0.5}, "median_last_half": 0.5}
        run.results.write_text(json.dumps(results))
        (run.predictions / "test.tsv").write_text("index\tprediction\n")
        log.log({"event": "end", "step": last, "status": status})
    log.close()


def hold(run, pid=None):
    """The lock of a process, by default of this one."""
    owner = Owner.me()
    if pid:
        owner = replace(owner, pid=pid, started=process_stat(pid)[1])
    shutil.rmtree(run.path / LOCK, ignore_errors=True)
    (run.path / LOCK).mkdir()
    (run.path / LOCK / "x").write_bytes(owner.as_text())


def found(client, run):
    """The run in MLflow that mirrors this run; there must be exactly one."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (only,) = client.search_runs(experiments, filter_string=f"tags.\"{RUN_ID}\" = '{own_id(run)}'")
    return only


def history(client, mlflow_run, name):
    """(step, milliseconds, value) of a metric, in order."""
    return sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(mlflow_run.info.run_id, name))


def everything(client, run):
    """Everything that MLflow holds of a run."""
    there = found(client, run)
    files = [
        file.path for folder in (None, "plots", "predictions") for file in client.list_artifacts(there.info.run_id, folder)
    ]
    return (
        dict(there.info),
        there.data.params,
        there.data.tags,
        sorted(files),
        {name: history(client, there, name) for name in there.data.metrics},
    )


def mirrors(run):
    """The mirror processes of a run."""
    processes = []
    for process in psutil.process_iter():
        try:
            if "mat_ds.tracking.mirror" in process.cmdline() and str(run.path) in process.cmdline():
                processes.append(process)
        except psutil.Error:
            continue
    return processes
