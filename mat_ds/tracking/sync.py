"""`mat-ds sync`: brings runs to an MLflow that was not there while they ran."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mat_ds.command import Parser
from mat_ds.config.yaml_files import read_yaml
from mat_ds.display import show
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.lock import known_holder_of
from mat_ds.rundir import RunDirectory, run_folders
from mat_ds.tracking.destination import mirror_uri, uri_problems
from mat_ds.tracking.mirror import bound_requests, reason

# Seconds a request may take, and how often it is tried again.
REQUEST, RETRIES = 30, 2


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints a line for each run; returns 0 if all are delivered, 1 if an MLflow could not be reached or refused one."""
    parser = Parser(prog="mat-ds sync", description=__doc__, epilog="example: mat-ds sync runs --uri http://127.0.0.1:5000",
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory, or a folder that holds some; again "
                        "is no harm")  # fmt: skip
    parser.add_argument("--uri", help="an MLflow server or database; default: the run's own tracking.uri")
    try:
        parsed = parser.parse_args(arguments)
        # A shell's pattern brings what lies beside runs along: logs, a database, artifacts.
        runs = {path: [folder for folder in run_folders(path) if RunDirectory(folder).events.exists()] for path in parsed.runs}
        found = dict.fromkeys(folder for folders in runs.values() for folder in folders)
        raise_if_any([*uri_problems("--uri", parsed.uri), *_run_problems(runs, parsed.uri)])
    except UserError as error:
        show(error, sys.stderr)
        return ExitCode.USER_ERROR
    bound_requests(REQUEST, RETRIES)
    for path, folders in runs.items():
        if not folders:
            show(f"{path}: passed over, no run")
    delivered = [_sync(RunDirectory(path), _uri_of(RunDirectory(path), parsed.uri)) for path in found]
    return ExitCode.OK if all(delivered) else ExitCode.FAILED


def _run_problems(runs: dict[Path, list[Path]], uri: str | None) -> Iterator[Problem]:
    nothing = not any(runs.values())
    for path, folders in runs.items():
        if not path.exists() or nothing:
            reason = "holds no run directory with an events.jsonl" if path.exists() else "does not exist"
            yield Problem("RUN", str(path), reason, "pass runs/<run>, or a folder of such folders")
        for folder in folders:
            if _uri_of(RunDirectory(folder), uri) is None:
                yield Problem("RUN", str(folder), "has tracking.uri=none, so nothing says where it should go",
                              "pass --uri, such as --uri sqlite:///runs/mlflow.db")  # fmt: skip


def _uri_of(run: RunDirectory, uri: str | None) -> str | None:
    config = read_yaml(run.config)
    return mirror_uri(run.path, uri or config.get("tracking", {}).get("uri"))


def _sync(run: RunDirectory, uri: str | None) -> bool:
    """Delivers one run and says how it went."""
    from mat_ds.tracking.replica import Replica

    known_holder_of(run.path)  # whether it still runs shows only in a while where its job was on another machine
    try:
        replica = Replica(run, str(uri))
        replica.deliver()
        replica.note()
    except Exception as error:
        show(f"{run.path}: NOT delivered to {uri}: {reason(error)}", sys.stderr)
        return False
    news = f"{replica.told} events, {replica.uploaded} files" if replica.told or replica.uploaded else "nothing new"
    show(f"{run.path}: {news} -> run {replica.run_id} of experiment {replica.experiment} at {uri}, {replica.status}")
    return True
