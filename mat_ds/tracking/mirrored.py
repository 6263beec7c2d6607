"""The files of a run folder that are mirrored to MLflow, and the id of the run there.

They may come from anyone, so they must be the folder's own and have the right structure.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mat_ds.config.yaml_files import read_yaml
from mat_ds.errors import Problem, UserError, masked, printable, raise_if_any
from mat_ds.storage.disk import write_new_json
from mat_ds.storage.own_files import file_problems, own_files
from mat_ds.storage.reading import open_regular, read_json, sha256_of_file
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tracking.destination import is_remote

# Files read from a run, besides the artifacts.
MIRRORED = ("config.yaml", "environment.json", "events.jsonl", "results.json", "tracking.json")
# Seconds to wait for another process that delivers the same run.
TURN = 60
LOST = "bring it back from a copy; or delete it; MLflow will then list the run as a new one"
FIX = "put the file of the run there, or leave this run out"


class Shape(BaseModel):
    """The part of a mapping that is checked; other keys are allowed."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Tracking(Shape):
    uri: Any = None
    experiment: str | None = None
    run_name: str | None = None
    tags: dict[str, str] = {}


class _Config(Shape):
    tracking: _Tracking = _Tracking()


class _Start(Shape):
    changed: dict[str, Annotated[list[Any], Field(min_length=2, max_length=2)]] = {}


class _Environment(Shape):
    starts: list[_Start] = []
    packages: dict[str, str] = {}
    deepspeed_config: dict[str, Any] = {}
    command: list[str] = []


def read_mirrored(run: RunDirectory) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's options and environment.

    Raises:
        UserError: if these files or the events are not the folder's own, or malformed.
    """
    raise_if_any(file_problems(run.path, MIRRORED))
    config = checked(run.config, _Config, read_yaml(run.config))
    return config, checked(run.environment, _Environment, read_json(run.environment, FIX))


def read_results(run: RunDirectory) -> dict[str, Any]:
    """Contents of `results.json`; empty if it is missing or unreadable."""
    with suppress(UserError):
        results = read_json(run.results, FIX)
        if isinstance(results.get("steps"), int):
            return results
    return {}


def checked(path: Path, shape: type[Shape], found: dict[str, Any]) -> dict[str, Any]:
    """Returns `found` unchanged; raises `UserError` if it does not have the required structure."""
    try:
        shape.model_validate(found)
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the file"
        raise UserError(Problem(str(path), None, f"is malformed at {where}: {wrong['msg'].lower()}", FIX)) from None
    return found


def open_log(run: RunDirectory) -> int:
    """Opens `tracking.log` for appending and returns the file descriptor.

    Raises:
        OSError: also if it is a link or a pipe.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(run.tracking_log, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{run.tracking_log} is not a regular file")
    return descriptor


def sync_command(run: RunDirectory, uri: str | None) -> str:
    """The command line that delivers what MLflow lacks of a run."""
    # sync does not trust a folder's address if credentials are set, so that of a server is given explicitly
    there = ["--uri", str(uri)] if is_remote(uri) else []
    return shlex.join(["mat-ds", "sync", str(run.path), *there])


def log_line(run: RunDirectory, line: str) -> None:
    """Appends a line with the time to `tracking.log`; ignores errors of the disk."""
    with suppress(OSError):
        descriptor = open_log(run)
        try:
            os.write(descriptor, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(masked(line))}\n".encode())
        finally:
            os.close(descriptor)


def own_id(run: RunDirectory) -> str:
    """The run's own id, created on first use.

    Raises:
        UserError: if tracking.json cannot be read; a new id would make it another run for MLflow.
    """
    if not os.path.lexists(run.tracking):
        write_new_json(run.tracking, {"run_id": uuid.uuid4().hex})  # unless another process just did
    return str(read_tracking(run)["run_id"])


def read_tracking(run: RunDirectory) -> dict[str, Any]:
    """Contents of `tracking.json`; empty if it does not exist.

    Raises:
        UserError: if it is damaged.
    """
    if not os.path.lexists(run.tracking):
        return {}
    noted = read_json(run.tracking, LOST)
    if not isinstance(noted.get("run_id"), str) or not noted["run_id"]:
        raise UserError(Problem(str(run.tracking), None, "does not identify the run", LOST))
    return noted


@contextmanager
def turn_to_deliver(run: RunDirectory) -> Iterator[None]:
    """A context that only one process at a time enters for a run, if the disk supports locks.

    Raises:
        TimeoutError: if another process stays in it.
    """
    with open_regular(run.tracking) as file:
        deadline = time.monotonic() + TURN
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("another process has been delivering this run for a minute") from None
                time.sleep(0.1)
                continue
            except OSError:
                pass
            break
        yield


def digests_of(run: RunDirectory, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """SHA-256 of a run's files by their names in its folder, and messages about files there that are not the folder's own.

    Args:
        run: the folder.
        names: of files, or of folders with all that is below them.
    """
    digests, foreign = {}, []
    for file, why in own_files(run.path, names):
        name = str(file.relative_to(run.path))
        if why:
            foreign.append(f"not uploaded: {name} {why}")
        else:
            digests[name] = sha256_of_file(file)
    return digests, foreign
