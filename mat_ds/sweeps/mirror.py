"""How trackers know the runs of a sweep for runs of one sweep."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mat_ds.runs.options import RunConfig
from mat_ds.sweeps.standings import best_of
from mat_ds.sweeps.study import SharedStudy
from mat_ds.tracking.destination import NO_MIRROR, default_uri
from mat_ds.tracking.options import TrackingConfig
from mat_ds.tracking.parent import keep_parent


def tracking_options(run: RunConfig, folder: Path, number: int, parent: str | None) -> list[str]:
    """The `tracking.*` options of one run of many.

    Args:
        run: the options they have in common.
        folder: of them all; its name is that of their experiment, unless the user gave one.
        number: of the run.
        parent: this program's own id of the run that is above them all, if there is one.
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
    """The experiment of the runs: what the user gave, else the name of their folder."""
    given = run.tracking.experiment
    return folder.name if given == TrackingConfig.model_fields["experiment"].default else given


def mirror_of(run: RunConfig, folder: Path) -> str:
    """The MLflow of the runs: what the user gave, else the database of the folder beside other runs. Jobs of a cluster must not
    write to one SQLite file at once: they have none, and `mat-ds sync` delivers later."""
    if run.tracking.uri:
        return run.tracking.uri
    return NO_MIRROR if "SLURM_JOB_ID" in os.environ else default_uri(folder)


def tell(study: SharedStudy, run: RunConfig, end: str) -> None:
    """Tells the mirror how the sweep stands.

    Args:
        study: the sweep.
        run: the options its trials have in common.
        end: its status where no worker is at it.
    """
    uri = mirror_of(run, study.folder)
    if uri == NO_MIRROR:
        return
    best, status = best_of(study), "RUNNING" if study.in_work else end
    state = {"mat_ds.trials": str(len(study.trials()))}
    if best:
        state |= {"mat_ds.best": study.folder_of(best.number).name, f"mat_ds.{study.space.objective}": f"{best.value:.6f}"}
    keep_parent(uri, experiment_of(run, study.folder), study.run_id, study.folder.name, state, status)
