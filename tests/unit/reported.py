"""Run directories with everything that a report reads, written without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mat_ds.config.schema import RunConfig
from mat_ds.rundir import RunDirectory
from mat_ds.tasks.registry import TASKS
from mat_ds.tracking.events import EventLog

STEPS, EVERY = 12, 4
BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12}


def make_run(
    folder: Path, scores: tuple[float, ...], seed: int = 0, task: str = "cola", end: str | None = "FINISHED", model: str = "",
    shape: dict[str, Any] | None = None, test: dict[str, Any] | None = None, **method: Any,
) -> RunDirectory:  # fmt: skip
    """A run of twelve steps, evaluated after every fourth; every metric of a split is the score.

    Args:
        scores: of the evaluations, in [0, 1].
        end: what its events say of its end; None: it goes on.
        model, shape: the name of its model, and the config of the exported one.
        test: scores of labelled test splits.
        method: options of the method; MAT unless they name another.
    """
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    config = RunConfig().model_dump(mode="json")
    own = method if method.get("name", "mat") != "mat" else {**config["method"], **method}
    config |= {"task": task, "seed": seed, "method": own}
    config["model"] |= {"name": model or config["model"]["name"]}
    run.config.write_text(yaml.safe_dump(config))
    environment = {"data_sha256": "d" * 8, "world_size": 2, "devices": ["cpu"], "git_commit": "c0ffee" * 6 + "abcd"}
    run.environment.write_text(json.dumps({**environment, "packages": {"mat_ds": "0.1.0", "torch": "2.13.0"}}))
    log = EventLog(run.events, 0)
    for step in range(1, STEPS + 1):
        log.log({"event": "step", "step": step, "epoch": step / 12, "L": 1 / step, "R": 0.1, "samples_per_second": 64.0})
        log.log({"event": "telemetry", "step": step, "R": 0.2, "R_without": 0.1, "delta_linf": 1e-3})
        if step % EVERY == 0:
            score = scores[step // EVERY - 1]
            splits = {split: dict.fromkeys(TASKS[task].metrics, score) for split in TASKS[task].dev} if task in TASKS else {}
            log.log({"event": "evaluation", "step": step, "score": score, **splits})
    if end:
        log.log({"event": "end", "step": STEPS, "status": end})
        results = {"task": task, "steps": STEPS, "seconds": 6.0, "export": {"which": "last"}, "test": test or {}}
        run.results.write_text(json.dumps(results))
        run.model.mkdir()
        (run.model / "config.json").write_text(json.dumps(shape or {}))
    log.close()
    return run


def attack(run: RunDirectory, norm: str, accuracies: tuple[float, ...], folder: str = "evaluation", **splits: Any) -> None:
    """A report of `mat-ds evaluate` in a run: accuracies at the radii 0, 1e-3, 1e-2, and noise that leaves the last."""
    points = [{"accuracy": value, "radius": radius} for radius, value in zip((0.0, 1e-3, 1e-2), accuracies, strict=True)]
    noise = {"word_drop": [{"rate": 0.1, "accuracy": accuracies[-1]}]}
    found = {"clean": {"accuracy": accuracies[0]}, "attack": points, "noise": noise}
    settings = {"norm": norm, "radii": [0.0, 1e-3, 1e-2], "steps": 5, "step_size": 0.5}
    report = {"task": "cola", "attack": settings, "splits": splits or {"validation": found}}
    (run.path / folder).mkdir()
    (run.path / folder / "robustness.json").write_text(json.dumps(report))
