"""`mat-ds sync`: brings runs to an MLflow that was not there while they ran."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from mat_ds.command import Parser
from mat_ds.errors import ExitCode, Problem, UserError, raise_if_any
from mat_ds.rundir import RunDirectory
from mat_ds.tracking.destination import mirror_uri, uri_problems
from mat_ds.tracking.mirror import bound_requests, reason

# Seconds a request may take, and how often it is tried again.
REQUEST, RETRIES = 30, 2


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints a line for each run; returns 0 if all are delivered, 1 if an MLflow could not be reached or refused one."""
    parser = Parser(prog="mat-ds sync", description=__doc__, epilog="example: mat-ds sync runs/* --uri http://127.0.0.1:5000",
                    allow_abbrev=False)  # fmt: skip
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run directory; again is no harm")
    parser.add_argument("--uri", help="an MLflow server or database; default: the run's own tracking.uri")
    try:
        parsed = parser.parse_args(arguments)
        # A shell's pattern brings the files beside runs along: logs, a database.
        runs = [path for path in parsed.runs if not path.is_file()]
        raise_if_any([*uri_problems("--uri", parsed.uri), *_run_problems(runs or parsed.runs, parsed.uri)])
    except UserError as error:
        print(error, file=sys.stderr)
        return ExitCode.USER_ERROR
    bound_requests(REQUEST, RETRIES)
    for path in parsed.runs:
        if path.is_file():
            print(f"{path}: passed over, a file and no run", flush=True)
    delivered = [_sync(RunDirectory(path), _uri_of(RunDirectory(path), parsed.uri)) for path in runs]
    return ExitCode.OK if all(delivered) else ExitCode.FAILED


def _run_problems(runs: Sequence[Path], uri: str | None) -> Iterator[Problem]:
    for path in runs:
        run = RunDirectory(path)
        if not run.holds_a_run or not run.events.exists() or not run.environment.exists():
            yield Problem("RUN", str(path), "is no run directory with an events.jsonl", "pass runs/<run>")
        elif _uri_of(run, uri) is None:
            yield Problem("RUN", str(path), "has tracking.uri=none, so nothing says where it should go",
                          "pass --uri, such as --uri sqlite:///runs/mlflow.db")  # fmt: skip


def _uri_of(run: RunDirectory, uri: str | None) -> str | None:
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return mirror_uri(run.path, uri or config.get("tracking", {}).get("uri"))


def _sync(run: RunDirectory, uri: str | None) -> bool:
    """Delivers one run and says how it went."""
    from mat_ds.tracking.replica import Replica

    try:
        replica = Replica(run, str(uri))
        replica.deliver()
        replica.note()
    except Exception as error:
        print(f"{run.path}: NOT delivered to {uri}: {reason(error)}", file=sys.stderr, flush=True)
        return False
    news = f"{replica.told} events, {replica.uploaded} files" if replica.told or replica.uploaded else "nothing new"
    print(
        f"{run.path}: {news} -> run {replica.run_id} of experiment {replica.experiment} at {uri}, {replica.status}", flush=True
    )
    return True
