"""The endpoints of a run, in points, from what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from benchmarks.evidence.records import Record

LABELS = ("no", "yes")


def endpoints(folder: Path, measured: Record) -> Record:
    """The endpoints, and the NLL of each dev example, from which NLL and accuracy are compared example by example.

    Args:
        folder: of a finished run.
        measured: what `mat-ds evaluate` found of it; empty if nothing did.
    """
    results = json.loads((folder / "results.json").read_text())
    (predictions,) = (folder / "predictions").glob("*.jsonl")
    lines = read_lines(predictions)
    scores = "score" in lines[0]
    nll, found = scored(lines) if scores else classified(lines)
    found |= {"seconds": results["seconds"], "steps": results["steps"]}
    if not scores:
        (calibration,) = results["calibration"]["splits"].values()
        found["ece"] = 100 * calibration["before"]["ece"]
    if measured:
        quality = "pearson" if scores else "accuracy"
        clean, turned = measured["clean"][quality], [point["broken"] for point in measured["attack"][1:]]
        noisy = [point[quality] for points in measured["noise"].values() for point in points]
        found["noise"] = 100 * (clean - float(np.mean(noisy)))
        if turned:
            found["attack"] = 100 * float(np.mean(turned)) / max(clean * measured["examples"], 1)
    return {"dev_sha256": results["dev_sha256"], "endpoints": found, "nll_by_example": [round(float(one), 4) for one in nll]}


def classified(lines: list[Record]) -> tuple[np.ndarray, dict[str, float]]:
    """The NLL of each answer in nats, and NLL, AUC, accuracy and Matthews correlation in points."""
    gold = np.array([line["gold"] == LABELS[1] for line in lines])
    yes = np.array([line["probabilities"][LABELS[1]] for line in lines])
    nll = -np.log(np.maximum(np.where(gold, yes, 1 - yes), 1e-12))
    return nll, {
        "nll": 100 * float(nll.mean()), "auc": 100 * float(roc_auc_score(gold, yes)),
        "accuracy": 100 * float(((yes > 0.5) == gold).mean()), "mcc": 100 * float(matthews_corrcoef(gold, yes > 0.5)),
    }  # fmt: skip


def scored(lines: list[Record]) -> tuple[np.ndarray, dict[str, float]]:
    """NLL and AUC of scores.

    NLL is that of a normal distribution of variance 1, whose mean is the answer, without its constant: half the squared error.
    AUC is of all pairs with different labels the share that is put in order, as it is for two classes (Harrell's C).
    """
    gold, answers = (np.array([line[name] for line in lines], float) for name in ("gold", "score"))
    nll = (gold - answers) ** 2 / 2
    asked, found = (np.sign(values[:, None] - values) for values in (gold, answers))
    return nll, {"nll": 100 * float(nll.mean()), "auc": 50 * (1 + float((asked * found).sum() / np.abs(asked).sum()))}


def read_lines(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text().splitlines()]
