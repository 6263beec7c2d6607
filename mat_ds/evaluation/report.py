"""Writes the results of an evaluation: `robustness.json` and `robustness.png`."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from mat_ds.config.versions import version_of
from mat_ds.evaluation.options import EvaluationOptions
from mat_ds.evaluation.subject import Subject
from mat_ds.storage.disk import write_json
from mat_ds.tasks.kinds import kind_of

JSON, PLOT = "robustness.json", "robustness.png"
PACKAGES = ("mat_ds", "torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy")

ATTACK_RULES = (
    "untargeted ascent on the task's loss with respect to a perturbation added to the word embeddings, evaluation mode",
    "the ball is per example, over all its real tokens together, special tokens included; pads carry nothing",
    "one random start per example, keyed by (seed, split, position), scaled to each radius",
    "the worst of all iterates counts: a wrong answer before a right one, then the greater loss",
    "what was found at a smaller radius counts at every larger one: accuracy cannot rise with the radius by construction",
)


def robustness_report(subject: Subject, options: EvaluationOptions, splits: dict[str, Any]) -> dict[str, Any]:
    """The report; independent of the number of ranks and the time."""
    attack = options.attack
    return {
        "task": subject.spec.name,
        "model": {"folder": str(subject.folder), "sha256": subject.model_sha256, "dtype": options.dtype},
        "data": {
            "sha256": subject.data_sha256, "max_length": subject.max_length,
            "examples": {split: len(examples) for split, examples in subject.splits.items()},
            "skipped": {split: tally.skipped for split, tally in subject.tallies.items() if tally.skipped},
        },
        "seed": options.seed,
        "attack": {"norm": attack.norm, "radii": list(attack.curve), "steps": attack.steps, "step_size": attack.step_size,
                   "rules": ATTACK_RULES},
        "noise": {"kinds": options.noise.kinds, "rates": options.noise.rates},
        "splits": splits,
        "options": options.model_dump(mode="json"),
        "versions": {name: version_of(name) for name in PACKAGES},
    }  # fmt: skip


def write_report(folder: Path, report: dict[str, Any], subject: Subject) -> None:
    """Writes both files into an empty folder."""
    write_json(folder / JSON, report)
    plot(folder / PLOT, report, subject)


def plot(path: Path, report: dict[str, Any], subject: Subject) -> None:
    """Plots scores over the attack's radius, one line per split, and over the noise rate, one line per kind (mean of the dev
    splits). Accuracy, or the squared error of a regression, is above the task's own metrics."""
    from matplotlib.figure import Figure

    spec, splits, attack = subject.spec, report["splits"], report["attack"]
    quantities = list(dict.fromkeys((kind_of(spec).quantity, *spec.metrics)))
    columns = [name for name in ("attack", "noise") if any(found[name] for found in splits.values())] or ["attack"]
    figure = Figure(figsize=(5.6 * len(columns), 3.4 * len(quantities)), layout="constrained")
    axes = figure.subplots(len(quantities), len(columns), squeeze=False, sharey="row")
    for row, quantity in enumerate(quantities):
        for column, kind in enumerate(columns):
            axis = axes[row][column]
            if kind == "attack":
                _draw_attack(axis, splits, quantity, attack)
            else:
                _draw_noise(axis, {split: splits[split] for split in spec.dev}, quantity)
            axis.grid(alpha=0.3)
            axis.set_ylabel(quantity.replace("_", " ") if column == 0 else "")
            if row == 0:
                axis.legend(fontsize="small")
                axis.set_title(f"{spec.name}: {'embedding attack' if kind == 'attack' else 'noise in the text'}")
    figure.savefig(path, dpi=150)


def _draw_attack(axis: Any, splits: dict[str, Any], quantity: str, attack: dict[str, Any]) -> None:
    radii: list[float] = attack["radii"] or [0.0]
    for split, found in splits.items():
        points = found["attack"] or [found["clean"]]
        axis.plot(radii, [point[quantity] for point in points], marker="o", markersize=4, label=split)
    if len(radii) > 1:  # logarithmic axis that still shows 0
        axis.set_xscale("symlog", linthresh=radii[1], linscale=0.5)
        axis.set_xticks(radii, [f"{radius:g}" for radius in radii], minor=False)
        axis.set_xticks([], minor=True)
    ball = {"linf": "L-infinity", "l2": "L2"}[attack["norm"]]
    axis.set_xlabel(f"{ball} radius in the word embeddings, {attack['steps']} steps")


def _draw_noise(axis: Any, splits: dict[str, Any], quantity: str) -> None:
    first, *_ = splits.values()
    for kind, points in first["noise"].items():
        rates = [0.0, *(point["rate"] for point in points)]
        values = [mean(found["clean"][quantity] for found in splits.values())]
        values += [mean(found["noise"][kind][i][quantity] for found in splits.values()) for i in range(len(points))]
        axis.plot(rates, values, marker="o", markersize=4, label=kind.replace("_", " "))
    axis.set_xlabel("share of letters or words changed")
