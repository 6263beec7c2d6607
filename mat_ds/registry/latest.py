"""The MLflow file of the last run below the current folder, where commands look for models if they are not told where."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from mat_ds.errors import UserError
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import show
from mat_ds.tracking.destination import SQLITE, database_file
from mat_ds.tracking.mirrored import read_mirrored
from mat_ds.tracking.trust import destination

DEFAULT_FILE = Path("runs") / "mlflow.db"
# Run directories lie at most this deep below the current folder, as runs/<sweep>/<trial> does.
PATTERNS = ("*/events.jsonl", "*/*/events.jsonl", "*/*/*/events.jsonl")


def default_address() -> str | None:
    """`runs/mlflow.db`, else the MLflow file of the newest run that has one, which is said; None if there is none.

    Servers are passed over: a run folder may be a stranger's, whose server must not choose the models that are loaded here.
    """
    if DEFAULT_FILE.exists():
        return f"{SQLITE}{DEFAULT_FILE}"
    files = [file for pattern in PATTERNS for file in Path().glob(pattern)]
    for run in (file.parent for file in sorted(files, key=_time_of, reverse=True)):
        if uri := _file_beside(run):
            show(f"registry: {uri}, of the last run here, {run}; --uri names another", sys.stderr)
            return uri
    return None


def _time_of(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # a link to nowhere, or just deleted
        return 0.0


def _file_beside(run: Path) -> str | None:
    with suppress(UserError):  # malformed, or its address is not to be used
        config, _ = read_mirrored(RunDirectory(run))
        uri = destination(run, config.get("tracking", {}).get("uri"), None)
        return uri if uri and (file := database_file(uri)) and file.exists() else None
    return None
