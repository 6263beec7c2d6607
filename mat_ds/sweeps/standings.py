"""The results of a sweep so far: a table of its trials, the best options as a recipe, and the files that reports read."""

from __future__ import annotations

import csv
import io
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mat_ds.config.yaml_files import as_yaml
from mat_ds.runs.options import RunConfig
from mat_ds.storage.disk import write_json, write_text
from mat_ds.sweeps.launching import Launching
from mat_ds.sweeps.space import overrides
from mat_ds.sweeps.study import SharedStudy
from mat_ds.sweeps.training import SCORES

# Options that are not part of the recipe of a trial: its folder, its tracking, and how it is resumed.
OWN: Any = {"output_dir": True, "tracking": True, "train": {"resume"}}


def publish(study: SharedStudy, launching: Launching) -> None:
    """Writes `sweep.json`, `trials.csv` and, once a trial has a score, `best.yaml` into the sweep's folder."""
    with study.turn:
        trials, rows = study.trials(), table(study)
        best = best_of(study)
        write_json(study.folder / "sweep.json", {
            "name": study.folder.name, "run_id": study.run_id, "objective": study.space.objective,
            **study.optuna.user_attrs["definition"], "best": best.number if best else None,
            "trials": [_described(study, trial) for trial in trials],
        })  # fmt: skip
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows(rows)
        write_text(study.folder / "trials.csv", text.getvalue())
        if best:
            head = f"# Trial {best.number} of {len(trials)}, the best: {study.space.objective} {best.value:.4f}\n"
            write_text(study.folder / "best.yaml", head + recipe_of(launching.options(overrides(best.params))))


def best_of(study: SharedStudy) -> FrozenTrial | None:
    """The finished trial with the highest score, the first of several; None if no trial has finished."""
    return max(study.trials(TrialState.COMPLETE), key=lambda trial: float(trial.value or 0.0), default=None)


def recipe_of(run: RunConfig) -> str:
    """The text of a recipe with all options of a run that differ from their defaults."""
    tree = run.model_dump(mode="json", exclude_defaults=True, exclude=OWN)
    tree["method"] = {"name": run.method.name, **tree.get("method", {})}
    return as_yaml({key: value for key, value in tree.items() if value != {}})


def _described(study: SharedStudy, trial: FrozenTrial) -> dict[str, Any]:
    # The value of a pruned trial is its last reported score, which may not be the objective.
    value = trial.value if trial.state == TrialState.COMPLETE else None
    return {
        "number": trial.number,
        "run": study.folder_of(trial.number).name,
        "state": trial.state.name.lower(),
        "value": value,
        **{name: trial.user_attrs.get(name) for name in SCORES},
        "options": trial.params,
        "evaluations": [score for _, score in sorted(trial.intermediate_values.items())],
        "reason": trial.user_attrs.get("reason"),
    }


def table(study: SharedStudy) -> list[list[Any]]:
    """A row of headings, and a row per trial with its folder, state, scores and options."""
    keys = list(study.space.options)
    rows: list[list[Any]] = [["trial", "state", *SCORES, "evaluations", *keys]]
    for trial in study.trials():
        scores = [trial.user_attrs.get(name) for name in SCORES]
        rows.append([study.folder_of(trial.number).name, trial.state.name.lower(), *scores, len(trial.intermediate_values),
                     *(trial.params.get(key) for key in keys)])  # fmt: skip
    return rows
