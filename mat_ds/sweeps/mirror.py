"""Marks the runs of a sweep in MLflow as belonging together, and keeps a parent run with the state of the sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mat_ds.runs.options import RunConfig
from mat_ds.tracking.destination import NO_MIRROR, default_uri
from mat_ds.tracking.parent import keep_parent
from mat_ds.tracking.variables import EXPERIMENT_NAME, named

if TYPE_CHECKING:
    from mat_ds.sweeps.study import SharedStudy


def tracking_options(run: RunConfig, folder: Path, number: int, parent: str | None) -> list[str]:
    """The `tracking.*` options of one run, as `key=value` arguments.

    Args:
        run: the options that all runs have in common.
        folder: the folder of the sweep. Its name becomes the experiment's, unless the user has given one.
        number: number of the run.
        parent: id that mat_ds has given to the parent run; None if there is none.
    """
    tracking = run.tracking
    tags = {
        **tracking.tags,
        "mat_ds.sweep": folder.name,
        "mat_ds.trial": str(number),
        **({"mat_ds.parent": parent} if parent else {}),
    }
    return [
        f"tracking.tags={json.dumps(tags)}",
        f"tracking.uri={mirror_of(run, folder)}",
        f"tracking.experiment={experiment_of(run, folder)}",
    ]


def experiment_of(run: RunConfig, folder: Path) -> str:
    """The MLflow experiment of the runs: the user's, or the name of the sweep's folder."""
    return run.tracking.experiment or named(EXPERIMENT_NAME) or folder.name


def mirror_of(run: RunConfig, folder: Path) -> str:
    """The MLflow address of the runs: the user's, or the SQLite file beside the sweep's folder.

    Under SLURM there is no default, because several jobs must not write to one SQLite file. `mat-ds sync` delivers the runs
    later.
    """
    if uri := run.tracking.settled().uri:
        return uri
    return NO_MIRROR if "SLURM_JOB_ID" in os.environ else default_uri(folder)


def tell(study: SharedStudy, run: RunConfig, end: str) -> None:
    """Updates the parent run in MLflow with the state of the sweep.

    Args:
        study: the sweep.
        run: the options that all trials have in common.
        end: the status to set if no worker is training a trial.
    """
    from mat_ds.sweeps.standings import best_of

    uri = mirror_of(run, study.folder)
    if uri == NO_MIRROR:
        return
    best, status = best_of(study), "RUNNING" if study.in_work else end
    state = {"mat_ds.trials": str(len(study.trials()))}
    if best:
        state |= {"mat_ds.best": study.folder_of(best.number).name, f"mat_ds.{study.space.objective}": f"{best.value:.6f}"}
    keep_parent(uri, experiment_of(run, study.folder), study.run_id, study.folder.name, state, status)
