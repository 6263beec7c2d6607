"""Finds the model folder of a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mat_ds.errors import Problem, UserError
from mat_ds.models.source import FOLDER_FIX
from mat_ds.storage.folders import restore
from mat_ds.storage.rundir import RunDirectory


def folder_of(path: Path) -> Path:
    """The model folder of a run, or `path` itself if it holds a model.

    Raises:
        UserError: if it is neither, or the run has no model yet.
    """
    rundir = RunDirectory(path)
    if rundir.holds_a_run:
        with suppress(OSError):  # another user's folder may be read-only
            restore(rundir.model)
    if rundir.holds_a_run and rundir.model.is_dir():
        return rundir.model
    if rundir.holds_a_run:
        raise UserError(Problem("model", str(path), "the run has not exported a model", "let it train to its end"))
    if not any((path / name).exists() for name in ("config.json", "adapter_config.json")):
        reason = "has neither a run nor a model in it" if path.is_dir() else "there is no such folder"
        raise UserError(Problem("model", str(path), reason, FOLDER_FIX))
    return path
