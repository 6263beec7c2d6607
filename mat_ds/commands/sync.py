"""`mat-ds sync`: delivers runs to MLflow that could not be delivered while they ran, or writes them for another tracker."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mat_ds.errors import ExitCode, Problem, UserError, collect_problems, raise_if_any
from mat_ds.ranks.exits import attempt
from mat_ds.storage.lock import known_holder_of
from mat_ds.storage.rundir import RunDirectory, run_folders
from mat_ds.terminal.display import show
from mat_ds.terminal.parser import Parser
from mat_ds.terminal.process import importing
from mat_ds.terminal.units import numbered
from mat_ds.tracking.destination import NO_MIRROR, check_uri
from mat_ds.tracking.mirror import bound_requests, reason
from mat_ds.tracking.mirrored import read_mirrored, read_tracking
from mat_ds.tracking.trust import destination

# Timeout of a request in seconds, and number of retries.
REQUEST, RETRIES = 30, 2


def _tensorboard(run: RunDirectory) -> tuple[int, Path]:
    from mat_ds.tracking.tensorboard import write_tensorboard

    return write_tensorboard(run)


def _wandb(run: RunDirectory) -> tuple[int, Path]:
    from mat_ds.tracking.wandb import write_wandb

    return write_wandb(run)


# Tracker -> function that writes a run for it; it returns the number of points, and where they are.
REPLAYS = {"tensorboard": _tensorboard, "wandb": _wandb}


def main(arguments: Sequence[str]) -> ExitCode:
    """Prints a line per run; returns 0 if all are delivered, 1 if an MLflow could not be reached or refused one."""
    return attempt(lambda: _sync_all(arguments))


def _sync_all(arguments: Sequence[str]) -> ExitCode:
    parser = Parser("sync", __doc__, "mat-ds sync runs --uri http://127.0.0.1:5000")
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run directory, or a folder of some; syncing twice does no harm"
    )
    parser.add_argument(
        "--uri",
        help="an MLflow server or database; default: the run's own tracking.uri (but a server that would be sent credentials "
        "only if MLFLOW_TRACKING_URI names it), else MLFLOW_TRACKING_URI, else mlflow.db beside the run",
    )
    parser.add_argument(
        "--to",
        choices=("mlflow", *REPLAYS),
        default="mlflow",
        help="tensorboard: files in `tensorboard/` of each run; wandb: an offline run in `wandb/` of each (needs wandb)",
    )
    parsed = parser.parse_args(arguments)
    if parsed.to != "mlflow" and parsed.uri:
        raise UserError(
            Problem("--uri", parsed.uri, f"is an address of MLflow, but --to is {parsed.to}", "leave one of them out")
        )
    check_uri("--uri", parsed.uri)
    # A shell pattern such as runs/* also matches logs, databases and artifacts, which are ignored.
    runs = {path: [folder for folder in run_folders(path) if RunDirectory(folder).events.exists()] for path in parsed.runs}
    if parsed.to != "mlflow":
        return _replay(runs, parsed.to)
    found = _destinations(runs, parsed.uri)
    bound_requests(REQUEST, RETRIES)
    for folder in [folder for folder, uri in found.items() if uri == NO_MIRROR]:
        show(f"{folder}: skipped, not mirrored (tracking.uri is none; --uri delivers it)")
    for path, folders in runs.items():
        if not folders:
            show(f"{path}: skipped, no run")
    delivered = [_sync(RunDirectory(path), uri) for path, uri in found.items() if uri != NO_MIRROR]
    return ExitCode.OK if all(delivered) else ExitCode.FAILED


def _replay(runs: dict[Path, list[Path]], tracker: str) -> ExitCode:
    """Writes each run for another tracker than MLflow, and prints a line for each and what to do with them."""
    raise_if_any(_path_problems(runs))
    places = []
    for path in dict.fromkeys(folder for folders in runs.values() for folder in folders):
        points, place = REPLAYS[tracker](RunDirectory(path))
        places.append(str(place))
        show(f"{path}: {numbered(points, 'point')} -> {place}")
    show("upload them with" if tracker == "wandb" else "look at them with")
    commands = [["wandb", "sync", *places]] if tracker == "wandb" else [["tensorboard", "--logdir", str(path)] for path in runs]
    show("\n".join(f"    {shlex.join(command)}" for command in commands))
    return ExitCode.OK


def _destinations(runs: dict[Path, list[Path]], given: str | None) -> dict[Path, str]:
    """The MLflow address of each run, `none` for one that is not mirrored.

    Args:
        runs: the run directories at or below each path.
        given: `--uri`.

    Raises:
        UserError: naming every path and run that cannot be delivered.
    """
    problems = list(_path_problems(runs))
    folders = dict.fromkeys(folder for folders in runs.values() for folder in folders)
    found = {folder: collect_problems(problems, _destination, RunDirectory(folder), given) for folder in folders}
    if NO_MIRROR in found.values() and set(found.values()) <= {NO_MIRROR, None}:
        problems += [Problem("RUN", str(folder), "has tracking.uri=none, so it has no address to deliver to",
                             "pass --uri, such as --uri sqlite:///runs/mlflow.db")
                     for folder, uri in found.items() if uri]  # fmt: skip
    raise_if_any(problems)
    return {folder: str(uri) for folder, uri in found.items()}


def _destination(run: RunDirectory, given: str | None) -> str:
    config, _ = read_mirrored(run)
    read_tracking(run)
    return destination(run.path, config.get("tracking", {}).get("uri"), given) or NO_MIRROR


def _path_problems(runs: dict[Path, list[Path]]) -> Iterator[Problem]:
    nothing = not any(runs.values())
    for path in runs:
        if not path.exists() or nothing:
            reason = "has no run directory with an events.jsonl" if path.exists() else "does not exist"
            yield Problem("RUN", str(path), reason, "pass runs/<run>, or a folder of such folders")


def _sync(run: RunDirectory, uri: str) -> bool:
    """Delivers one run and prints the result; returns whether it succeeded."""
    with importing(what="MLflow"):
        from mat_ds.tracking.replica import Replica

    known_holder_of(run.path)  # waits until it is known whether a run on another machine still runs
    try:
        replica = Replica(run, uri)
        replica.deliver()
    except Exception as error:
        show(f"{run.path}: NOT delivered to {uri}: {reason(error)}", sys.stderr)
        return False
    for line in replica.foreign:
        show(f"{run.path}: {line}", sys.stderr)
    news = f"{replica.told} events, {replica.uploaded} files" if replica.told or replica.uploaded else "nothing new"
    show(f"{run.path}: {news} -> run {replica.run_id} of experiment {replica.experiment} at {uri}, {replica.status}")
    return True
