"""Runs one training of a sweep in separate processes: starts or continues it, follows it, stops it, and reports its end.

DeepSpeed cannot be started twice in one process, and a training that dies must not end the sweep.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mat_ds.errors import ExitCode, UserError
from mat_ds.storage.events import Record, parse_event, read_events
from mat_ds.storage.lock import LOCK, RunLock, holder_of
from mat_ds.storage.owner import Fate
from mat_ds.storage.reading import load_json
from mat_ds.storage.rundir import RunDirectory

# Seconds between two checks of a training.
LOOK = 0.5
# The worker's lock in a run directory, in addition to that of the training.
WORKER_LOCK = "worker.lock"
# Names of the scores in `scores_of`.
SCORES = ("last", "best", "median_last_half")
# Exit codes after which a training is not started again, since it would end in the same way.
FINAL = (ExitCode.USER_ERROR, ExitCode.NON_FINITE, ExitCode.DISPLACED)
REASON_LINES, REASON_LENGTH = 6, 600


@dataclass(frozen=True)
class End:
    """How a training ended.

    Attributes:
        results: its `results.json`; None if it did not finish.
        interrupted: whether it was told to stop and can be continued.
        code: exit code of its launcher.
        reason: exit code and last lines of its output.
    """

    results: dict[str, Any] | None
    interrupted: bool
    code: int
    reason: str


def results_of(folder: Path) -> dict[str, Any] | None:
    """The results of a finished run; None if it has not finished. Scoring the exported model is its last step."""
    try:
        results = load_json(RunDirectory(folder).results)
    except (OSError, ValueError):  # it is written again when the training continues from its last checkpoint
        return None
    exported = results.get("export") if isinstance(results, dict) else None
    return results if isinstance(exported, dict) and "score" in exported else None


def scores_of(results: dict[str, Any]) -> dict[str, float]:
    """The dev scores that runs are compared by."""
    return {"last": results["last"]["score"], "best": results["best"]["score"], "median_last_half": results["median_last_half"]}


def claim(folder: Path) -> RunLock | None:
    """Claims the right of this worker alone to start trainings in a run directory.

    None if another worker has it, or a training in it may be running on another machine.
    """
    lock = RunLock(WORKER_LOCK)
    try:
        lock.acquire(folder)
    except UserError:
        return None
    trains = holder_of(folder)
    if trains and trains.fate != Fate.ALIVE:
        lock.release()
        return None
    with suppress(UserError):  # removes an expired lease, so that the training need not wait for it
        (left := RunLock()).acquire(folder)
        left.release()
    return lock


def is_unclear(folder: Path) -> bool:
    """Whether a worker or training in a run directory may be dead. This is known after a minute or two."""
    holders = [holder_of(folder, name) for name in (WORKER_LOCK, LOCK)]
    return any(holder and not holder.alive for holder in holders)


def is_claimed(folder: Path) -> bool:
    """Whether a worker has claimed a run directory."""
    return holder_of(folder, WORKER_LOCK) is not None


def train_until_done(
    command: Callable[[], Sequence[str]],
    folder: Path,
    wants_to_stop: Callable[[], bool],
    say: Callable[[str], None],
    died_at: int | None = None,
    dies: Callable[[int], None] = lambda step: None,
) -> End:
    """Trains to the end. If the training dies, it is continued, as long as it gets further each time.

    Args:
        command: returns the command line that starts or continues the training.
        folder, wants_to_stop: as for `run_training`.
        say: shows a line to the user.
        died_at: the outer step at which the training died in the last attempt; None if it has not died.
        dies: called with the outer step each time the training dies.
    """
    while True:
        end = run_training(command(), folder, wants_to_stop)
        if end.results or end.interrupted or end.code in FINAL:
            return end
        before, died_at = died_at, last_step(folder)
        dies(died_at)
        if before is not None and died_at <= before:
            return end
        say(f"{folder.name}: died at step {died_at}, and is continued; {end.reason}")


def last_step(folder: Path) -> int:
    """The last outer step in a run's log; 0 if there is none."""
    return max((record["step"] for record in read_events(RunDirectory(folder).events)), default=0)


def run_training(command: Sequence[str], folder: Path, wants_to_stop: Callable[[], bool]) -> End:
    """Trains until the end, or until it is told to stop. The output is appended to `<folder>.log`.

    Args:
        command: the command line that starts or continues the training.
        folder: its run directory, which this worker has claimed.
        wants_to_stop: called every half second, and once after the end; returns True to stop the training.
    """
    while holder_of(folder):  # a training whose worker died is still running; it is told to save and stop
        _tell(folder, None)
        time.sleep(LOOK)
    RunDirectory(folder).interrupted.unlink(missing_ok=True)
    # Puts this Python's environment first in PATH, in case it has not been activated.
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    log, told = folder.with_name(f"{folder.name}.log"), False
    with log.open("ab") as out:
        beginning = out.tell()
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )
        except OSError as error:
            return End(None, False, ExitCode.USER_ERROR, f"{command[0]} cannot be started: {error.strerror}")
    try:
        while process.poll() is None:
            if not told and wants_to_stop():
                _tell(folder, process)
                told = True
            time.sleep(LOOK)
        wants_to_stop()
    except BaseException:  # this process ends, so nobody would follow the training any more
        _tell(folder, process)
        raise
    results = results_of(folder)
    interrupted = told or process.returncode == ExitCode.REQUEUE or RunDirectory(folder).interrupted.exists()
    reason = f"exit code {process.returncode}: {_last_lines(log, beginning)}"
    return End(results, results is None and interrupted, process.returncode, reason)


def _tell(folder: Path, process: subprocess.Popen[bytes] | None) -> None:
    """Tells a training to save and stop.

    The signal is sent to its first rank, because launchers pass signals on in different ways; `srun` sends KILL. If no rank has
    started to train yet, there is nothing to save, and the launcher's process group is ended.
    """
    holder = holder_of(folder)
    with suppress(ProcessLookupError):
        if holder and holder.owner and holder.fate == Fate.ALIVE:
            os.kill(holder.owner.pid, signal.SIGTERM)
        elif process:
            os.killpg(process.pid, signal.SIGTERM)


def _last_lines(log: Path, beginning: int) -> str:
    """The last lines of a log after an offset in bytes."""
    with log.open("rb") as file:
        file.seek(beginning)
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-REASON_LINES:])[-REASON_LENGTH:]


class Scores:
    """Reads the dev scores in a run's log. Each call reads only what was added since the last one.

    Attributes:
        latest: the record of the latest outer step; None if there is none yet.
    """

    def __init__(self, folder: Path):
        self._path, self._offset = RunDirectory(folder).events, 0
        self._scores: dict[int, float] = {}
        self.latest: Record | None = None

    def __call__(self) -> list[tuple[int, float]]:
        """Outer step and score of each evaluation, in order. An evaluation that was repeated after a restart counts once."""
        for record in self._new():
            if record["event"] == "evaluation":
                self._scores[record["step"]] = float(record["score"])
            elif record["event"] == "step":
                self.latest = record
        return sorted(self._scores.items())

    def _new(self) -> list[Record]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + end)
        return list(parse_event(whole))


class Turn:
    """A re-entrant lock, held for seconds at most, for claiming a run of a sweep and for writing the sweep's own files.

    Args:
        folder: the folder of the sweep.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock, self._depth = folder, RunLock("turn.lock"), 0

    def __enter__(self) -> None:
        if self._depth == 0:
            self._lock.wait(self._folder)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._lock.release()
