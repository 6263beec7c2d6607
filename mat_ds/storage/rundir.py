"""The run directory: the paths in it, and how it is created."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

from mat_ds.errors import Interrupted, Problem, raise_if_any
from mat_ds.storage.disk import write_json
from mat_ds.storage.folders import clear, restore


def new_folder(path: Path) -> Path:
    """Creates a folder that did not exist: `path`, or `path-2`, `path-3`, ... if that is taken."""
    for name in chain([path.name], (f"{path.name}-{i}" for i in count(2))):
        try:
            path.with_name(name).mkdir(parents=True)
            break
        except FileExistsError:
            continue
    return path.with_name(name)


class RunDirectory:
    """The paths of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.environment = path / "environment.json"
        self.events = path / "events.jsonl"
        self.log = path / "train.log"
        self.results = path / "results.json"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.snapshots = path / "snapshots"
        self.predictions = path / "predictions"
        self.plots = path / "plots"
        self.tracking = path / "tracking.json"
        self.tracking_log = path / "tracking.log"
        self.interrupted = path / "interrupted.json"

    @property
    def holds_a_run(self) -> bool:
        """Whether a run has started here."""
        return self.config.exists()

    def create(self) -> None:
        """Creates the folders of a new or resumed run, and restores a model that a crashed process had set aside.

        Raises:
            UserError: if one of the run's names is taken by something else: reading a pipe would block, and writing
                through a link could overwrite a file elsewhere.
        """
        files = (self.config, self.environment, self.events, self.log, self.results, self.tracking, self.tracking_log)
        folders = (self.checkpoints, self.model, self.snapshots, self.predictions, self.plots)
        expected = {**dict.fromkeys((*files, self.interrupted), stat.S_IFREG), **dict.fromkeys(folders, stat.S_IFDIR)}
        called = {stat.S_IFREG: "regular file", stat.S_IFDIR: "folder of its own"}
        fix = "move it away, or pass another output_dir, which may itself be a link"
        raise_if_any(
            Problem("output_dir", str(path), f"is not a {called[kind]}, but a run writes there", fix)
            for path, kind in expected.items()
            if os.path.lexists(path) and stat.S_IFMT(path.lstat().st_mode) != kind
        )
        self.interrupted.unlink(missing_ok=True)
        restore(self.model)
        for written in (self.model, self.config, self.environment, self.results, self.interrupted):
            clear(written, alone=True)
        for folder in (self.checkpoints, self.predictions, self.plots):
            folder.mkdir(parents=True, exist_ok=True)


def run_folders(path: Path) -> Iterator[Path]:
    """Yields the run directories at or below a folder; does not look inside them.

    MLflow's artifact store holds copies of the files of a run, but no events.
    """
    for folder, below, files in os.walk(path):
        if {"config.yaml", "environment.json"} <= set(files) and ("events.jsonl" in files or Path(folder) == path):
            yield Path(folder)
            below.clear()
        below[:] = sorted(name for name in below if not name.startswith("."))


def mark_interrupted(rundir: RunDirectory, interruption: Interrupted) -> None:
    """Notes in the run directory that the run was interrupted and can be resumed, for example for a SLURM script."""
    job = {name.lower(): os.environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")}
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    write_json(rundir.interrupted, {"reason": str(interruption), "time": now, **job})
