"""Writes a run's numbers as an offline run of Weights & Biases, if its package is installed. Nothing is sent anywhere."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.content import params_of
from mat_ds.tracking.mirrored import own_id, read_mirrored
from mat_ds.tracking.options import EXPERIMENT
from mat_ds.tracking.replay import folder_in, moments

FOLDER = "wandb"


def check_installed() -> None:
    """Raises `UserError` if the package is not installed."""
    if find_spec("wandb") is None:
        fix = "`pip install wandb`, or pass --to tensorboard"
        raise UserError(Problem("--to", "wandb", "its package `wandb` is not installed", fix))


def write_wandb(run: RunDirectory) -> tuple[int, Path]:
    """Writes or replaces the offline run in `wandb/` of a run; returns its number of points, and its folder.

    The run keeps its id, so that `wandb sync` uploads it as the same run whenever it is written again.

    Raises:
        UserError: if the package is missing, the events cannot be read, or the folder leads out of the run.
    """
    check_installed()
    folder = folder_in(run, FOLDER)
    config, environment = read_mirrored(run)
    tracking, found = config.get("tracking", {}), list(moments(run))
    for earlier in folder.glob(f"offline-run-*-{own_id(run)}"):
        shutil.rmtree(earlier)
    os.environ.setdefault("WANDB_SILENT", "true")
    offline = import_module("wandb").init(
        mode="offline", dir=str(run.path), id=own_id(run), project=tracking.get("experiment") or EXPERIMENT,
        name=tracking.get("run_name") or run.path.name, config=params_of(config, environment.get("starts", [])),
    )  # fmt: skip
    for time, step, metrics in found:
        offline.log({**metrics, "_timestamp": time}, step=step)
    offline.finish()
    return sum(len(moment.metrics) for moment in found), Path(offline.dir).parent
