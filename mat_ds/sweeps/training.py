"""One training in processes of its own: started or continued, followed, told to stop, and how it ended.

Ranks and DeepSpeed cannot be started twice in one process, and one that dies must not take the others along.
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

# Seconds between two looks at a training.
LOOK = 0.5
# Of the worker, beside the lock of the training itself.
WORKER_LOCK = "worker.lock"
# What would end the same way again.
FINAL = (ExitCode.USER_ERROR, ExitCode.NON_FINITE, ExitCode.DISPLACED)
REASON_LINES, REASON_LENGTH = 6, 600


@dataclass(frozen=True)
class End:
    """How a training ended.

    Attributes:
        results: its `results.json`, if it came to its end.
        interrupted: whether it was told to stop, and can go on.
        code: of its launcher.
        reason: the last that it said, where it neither came to its end nor was told to stop.
    """

    results: dict[str, Any] | None
    interrupted: bool
    code: int
    reason: str

    @property
    def final(self) -> bool:
        """Whether starting it again would end the same way."""
        return self.code in FINAL


def results_of(folder: Path) -> dict[str, Any] | None:
    """The results of a run that came to its end: its exported model was scored, which comes last."""
    try:
        results = load_json(RunDirectory(folder).results)
    except (OSError, ValueError):  # it comes again where the training goes on from its last checkpoint
        return None
    exported = results.get("export") if isinstance(results, dict) else None
    return results if isinstance(exported, dict) and "score" in exported else None


def scores_of(results: dict[str, Any]) -> dict[str, float]:
    """The dev scores by which runs are compared, side by side."""
    return {"last": results["last"]["score"], "best": results["best"]["score"], "median_last_half": results["median_last_half"]}


@dataclass(frozen=True)
class Claim:
    """A run directory that this worker alone starts trainings in.

    Attributes:
        folder: the directory.
        abandoned: whether the worker before died in it.
    """

    folder: Path
    abandoned: bool
    _lock: RunLock

    def check(self) -> None:
        """Raises `Displaced` if it is another worker's by now."""
        self._lock.check()

    def release(self) -> None:
        self._lock.release()


def claim(folder: Path) -> Claim | None:
    """Takes a run directory, if no other worker is in it and no training that is out of reach."""
    abandoned, lock = (folder / WORKER_LOCK).exists(), RunLock(WORKER_LOCK)
    try:
        lock.acquire(folder)
    except UserError:
        return None
    trains = holder_of(folder)
    if trains and trains.fate != Fate.ALIVE:
        lock.release()
        return None
    with suppress(UserError):  # clears an expired lease away, for which the training would wait once more
        (left := RunLock()).acquire(folder)
        left.release()
    return Claim(folder, abandoned, lock)


def is_unclear(folder: Path) -> bool:
    """Whether it is not known yet if somebody is still in a run directory; looking again tells in a minute or two."""
    holders = [holder_of(folder, name) for name in (WORKER_LOCK, LOCK)]
    return any(holder and not holder.alive for holder in holders)


def is_claimed(folder: Path) -> bool:
    """Whether a worker is in a run directory."""
    return holder_of(folder, WORKER_LOCK) is not None


def persevere(
    command: Callable[[], Sequence[str]],
    folder: Path,
    wants_to_stop: Callable[[], bool],
    say: Callable[[str], None],
    died_at: int | None = None,
    dies: Callable[[int], None] = lambda step: None,
) -> End:
    """Trains to the end, and goes on where processes died, as long as each life gets further than the one before.

    Args:
        command: makes what starts or continues the training.
        folder, wants_to_stop: as of `run_training`.
        say: is told in words that it goes on.
        died_at: the outer step at which it died when it was last tried; None: it has not.
        dies: is told of the outer step of each death.
    """
    while True:
        end = run_training(command(), folder, wants_to_stop)
        if end.results or end.interrupted or end.final:
            return end
        before, died_at = died_at, last_step(folder)
        dies(died_at)
        if before is not None and died_at <= before:
            return end
        say(f"{folder.name}: died at step {died_at}, and is continued; {end.reason}")


def last_step(folder: Path) -> int:
    """The last outer step that a run has logged."""
    return max((record["step"] for record in read_events(RunDirectory(folder).events)), default=0)


def run_training(command: Sequence[str], folder: Path, wants_to_stop: Callable[[], bool]) -> End:
    """Trains in a folder until the end, or until it is told to stop; what is printed goes to `<folder>.log`.

    Args:
        command: starts or continues the training.
        folder: its run directory, claimed.
        wants_to_stop: asked every half second, and once when it has ended.
    """
    while holder_of(folder):  # of a worker that died; it saves what it has
        _tell(folder, None)
        time.sleep(LOOK)
    RunDirectory(folder).interrupted.unlink(missing_ok=True)
    # Programs of the environment that this one runs in come first, also where that was not activated.
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
    except BaseException:  # nobody will look after it
        _tell(folder, process)
        raise
    results = results_of(folder)
    interrupted = told or process.returncode == ExitCode.REQUEUE or RunDirectory(folder).interrupted.exists()
    reason = f"exit code {process.returncode}: {_last_lines(log, beginning)}"
    return End(results, results is None and interrupted, process.returncode, reason)


def _tell(folder: Path, process: subprocess.Popen[bytes] | None) -> None:
    """Tells a training to save and stop: its first rank, as launchers pass signals on in ways of their own, `srun` as KILL.
    Before there is one that could save anything, whatever runs is ended."""
    holder = holder_of(folder)
    with suppress(ProcessLookupError):
        if holder and holder.owner and holder.fate == Fate.ALIVE:
            os.kill(holder.owner.pid, signal.SIGTERM)
        elif process:
            os.killpg(process.pid, signal.SIGTERM)


def _last_lines(log: Path, beginning: int) -> str:
    """The end of what was printed since an offset."""
    with log.open("rb") as file:
        file.seek(beginning)
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-REASON_LINES:])[-REASON_LENGTH:]


class Scores:
    """The dev scores in a run's log, read on from where the last look ended."""

    def __init__(self, folder: Path):
        self._path, self._offset = RunDirectory(folder).events, 0
        self._scores: dict[int, float] = {}

    def __call__(self) -> list[tuple[int, float]]:
        """Outer step and score of each evaluation so far, each once, however often the run was started."""
        for record in self._new():
            if record["event"] == "evaluation":
                self._scores[record["step"]] = float(record["score"])
        return sorted(self._scores.items())

    def _new(self) -> list[Record]:
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, end, _ = file.read().rpartition(b"\n")
        self._offset += len(whole + end)
        return list(parse_event(whole))
