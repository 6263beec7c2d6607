"""Run directories with everything that a report reads, written without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mat_ds.runs.options import RunConfig
from mat_ds.storage.events import EventLog
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.registry import TASKS

STEPS, EVERY = 12, 4
BERT = {"model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12}


def make_run(
    folder: Path,
    scores: tuple[float, ...],
    seed: int = 0,
    task: str = "cola",
    end: str | None = "FINISHED",
    model: str = "",
    shape: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    half: str = "",
    run_id: str = "",
    options: dict[str, dict[str, Any]] | None = None,
    **method: Any,
) -> RunDirectory:
    """A run of twelve steps, evaluated after every fourth. All metrics differ, and the score is their mean.

    Args:
        scores: of the evaluations, in [0, 1].
        end: status in its end event; None: it is still running.
        model, shape: the name of its model, and the config of the exported one.
        test: scores of labelled test splits.
        half: fp16 or bf16; empty for fp32.
        run_id: the run's id.
        options: further options, by section.
        method: options of the method, by default of MAT.
    """
    run = RunDirectory(folder)
    folder.mkdir(parents=True)
    config = RunConfig().model_dump(mode="json")
    whole = method if method.get("name", "mat") != "mat" else {**config["method"], **method}
    config |= {"task": task, "seed": seed, "method": whole}
    config["model"] |= {"name": model or config["model"]["name"]}
    for section, own in (options or {}).items():
        config[section] |= own
    run.config.write_text(yaml.safe_dump(config))
    environment = {
        "data_sha256": "d" * 8,
        "world_size": 2,
        "devices": ["cpu"],
        "git_commit": "c0ffee" * 6 + "abcd",
        "deepspeed_config": {half: {"enabled": True}} if half else {},
    }
    run.environment.write_text(json.dumps({**environment, "packages": {"mat_ds": "0.1.0", "torch": "2.13.0"}}))
    log = EventLog(run.events, 0)
    for step in range(1, STEPS + 1):
        log.log({"event": "step", "step": step, "epoch": step / 12, "L": 1 / step, "R": 0.1, "samples_per_second": 64.0})
        log.log({"event": "telemetry", "step": step, "R": 0.2, "R_without": 0.1, "delta_linf": 1e-3})
        if step % EVERY == 0:
            score = scores[step // EVERY - 1]
            log.log({"event": "evaluation", "step": step, "score": score, **(metrics_at(score, task) if task in TASKS else {})})
    if run_id:
        run.tracking.write_text(json.dumps({"run_id": run_id}))
    if end:
        log.log({"event": "end", "step": STEPS, "status": end})
        results = {"task": task, "steps": STEPS, "seconds": 6.0, "export": {"which": "last"}, "test": test or {},
                   "dev_sha256": "e" * 8}  # fmt: skip
        run.results.write_text(json.dumps(results))
        run.model.mkdir()
        (run.model / "config.json").write_text(json.dumps(shape or {}))
    log.close()
    return run


def judge(run: RunDirectory, nll: float, counts: list[list[int]]) -> None:
    """Adds a calibration, with an NLL that the temperature 2 halves, and a confusion matrix to a run's results."""
    before = {"nll": nll, "brier": 0.2, "ece": 0.1, "ece_adaptive": 0.11, "aurc": 0.05}
    bins = [{"confidence": at, "accuracy": at - 0.1, "share": 0.25} for at in (0.6, 0.7, 0.8, 0.95)]
    split = {
        "before": before,
        "after": {**before, "nll": nll / 2},
        "reliability": bins,
        "reliability_after": bins,
        "risk_coverage": [{"coverage": share, "risk": 0.1 * share} for share in (0.5, 1.0)],
    }
    found = {
        "calibration": {"temperature": 2.0, "splits": {"validation": split}},
        "confusion": {"labels": list(TASKS["cola"].labels), "counts": {"validation": counts}},
    }
    run.results.write_text(json.dumps({**json.loads(run.results.read_text()), **found}))


def answer(run: RunDirectory, right: Sequence[float]) -> None:
    """Adds predictions for a dev split, with these probabilities of the right label."""
    run.predictions.mkdir(exist_ok=True)
    gold = [TASKS["cola"].labels[i % 2] for i in range(len(right))]
    lines = []
    for i, (label, share) in enumerate(zip(gold, right, strict=True)):
        probabilities = {name: share if name == label else 1 - share for name in TASKS["cola"].labels}
        found = max(probabilities, key=lambda name: probabilities[name])
        lines.append(json.dumps({"index": i, "label": found, "probabilities": probabilities, "gold": label}))
    (run.predictions / "validation.jsonl").write_text("\n".join(lines))


def metrics_at(score: float, task: str) -> dict[str, dict[str, float]]:
    """Metrics by split, whose mean is `score`. They fall by 0.04 from metric to metric and by 0.02 from split to split."""
    spec = TASKS[task]

    def around(number: int, step: float) -> list[float]:
        return [step * ((number - 1) / 2 - place) for place in range(number)]

    shifts = around(len(spec.metrics), 0.04)
    return {
        split: {metric: score + more + shift for metric, shift in zip(spec.metrics, shifts, strict=True)}
        for split, more in zip(spec.dev, around(len(spec.dev), 0.02), strict=True)
    }


def attack(
    run: RunDirectory,
    norm: str,
    accuracies: tuple[float, ...],
    folder: str = "evaluation",
    names: Sequence[str] = ("accuracy",),
    **splits: Any,
) -> None:
    """A report of `mat-ds evaluate` in a run: accuracies at the radii 0, 1e-3, 1e-2, and noise that leaves the last.

    Args:
        names: of all quantities, which are those accuracies.
    """
    at = [dict.fromkeys(names, value) for value in accuracies]
    points = [{**point, "radius": radius} for radius, point in zip((0.0, 1e-3, 1e-2), at, strict=True)]
    found = {"clean": at[0], "attack": points, "noise": {"word_drop": [{"rate": 0.1, **at[-1]}]}}
    settings = {"norm": norm, "radii": [0.0, 1e-3, 1e-2], "steps": 5, "step_size": 0.5}
    report = {"task": "cola", "attack": settings, "splits": splits or {"validation": found}}
    (run.path / folder).mkdir()
    (run.path / folder / "robustness.json").write_text(json.dumps(report))
