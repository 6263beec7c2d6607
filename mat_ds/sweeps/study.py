"""Optuna's study of a sweep, in a journal file that workers on several nodes share.

SQLite is not safe on network disks. The journal is appended to under a lock file, which works there. Optuna's journals have no
heartbeat, so a lock in the trial's folder shows whether the worker of a trial is alive.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from mat_ds.errors import Problem, UserError, raise_if_any
from mat_ds.sampling.keys import seed_from
from mat_ds.storage.lock import RunLock
from mat_ds.storage.reading import read_bytes
from mat_ds.sweeps.launching import redefined
from mat_ds.sweeps.space import Space, Values, draw
from mat_ds.sweeps.training import WORKER_LOCK, Turn, claim, is_claimed, is_unclear

JOURNAL = "journal.log"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
MOST_BYTES = 1 << 30


class JournalLock(JournalFileOpenLock):
    """Lets Optuna write the journal only under the sweep's `Turn`.

    Optuna's own locks expire after half a minute even if their owner is still writing. An incomplete last line, left by a
    machine that lost power, would make all later lines unreadable; it is removed before the next write.
    """

    def __init__(self, journal: Path, turn: Turn):
        super().__init__(str(journal))
        self._journal, self._turn = journal, turn

    def acquire(self) -> bool:
        self._turn.__enter__()
        with self._journal.open("r+b") as file:
            text = file.read()
            if not text.endswith(b"\n"):
                file.truncate(text.rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._turn.__exit__()


@dataclass(frozen=True)
class Taken:
    """A trial that this worker trains.

    Attributes:
        trial: Optuna's trial.
        values: a value for every searched option.
        folder, claim: its run directory, and the right to train in it.
        abandoned: whether its previous worker died.
    """

    trial: optuna.Trial
    values: Values
    folder: Path
    claim: RunLock
    abandoned: bool


class SharedStudy:
    """The trials of a sweep, shared by all its workers.

    Args:
        folder: the folder of the sweep.
        space: the search space.
        definition: all else that must be the same for the trials to be comparable, as a JSON object.
        seed: key of the random draws.

    Raises:
        UserError: if there is a sweep with another definition in the folder.
    """

    def __init__(self, folder: Path, space: Space, definition: dict[str, Any], seed: int):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.space, self._seed = folder, space, seed
        folder.mkdir(parents=True, exist_ok=True)
        journal, self.turn = folder / JOURNAL, Turn(folder)
        with self.turn:
            raise_if_any(journal_problems(journal))
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(journal, self.turn)))
            # The study is not named after the folder, which may be renamed.
            self.optuna = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True,
                                              sampler=self._sampler(0), pruner=_pruner(space))  # fmt: skip
            self._define({"space": space.model_dump(mode="json"), **definition})

    def _define(self, definition: dict[str, Any]) -> None:
        """Stores the definition of the sweep, or compares it with the stored one."""
        known = self.optuna.user_attrs
        if "definition" in known:
            raise_if_any(redefined(known["definition"], definition, f"the sweep in {self.folder}"))
            return
        if self.space.sampler == "grid":
            begun = bool(self.trials())  # by a worker that died before it had added all trials
            for values in self.space.grid:
                self.optuna.enqueue_trial(values, skip_if_exists=begun)
        self.optuna.set_user_attr("run_id", uuid.uuid4().hex)
        self.optuna.set_user_attr("definition", definition)

    @property
    def run_id(self) -> str:
        """The id that mat_ds has given to the sweep, for MLflow."""
        return str(self.optuna.user_attrs["run_id"])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in the given states, or all trials, in order of their numbers."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @property
    def in_work(self) -> bool:
        """Whether a worker, this one or another, has claimed a trial."""
        return any(is_claimed(self.folder_of(trial.number)) for trial in self.trials())

    @property
    def unclear(self) -> bool:
        """Whether there is a trial whose worker or training may be dead, which is known only when its lease expires."""
        return any(is_unclear(self.folder_of(trial.number)) for trial in self.trials(TrialState.RUNNING))

    def folder_of(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.folder / f"trial-{number:04}"

    def take(self, limit: int | None) -> Taken | None:
        """Takes a trial whose worker has stopped or died, or else a new one.

        Args:
            limit: number of trials of the whole sweep; None: those of the grid.

        Returns:
            The trial; None if all are finished or claimed by other workers.

        Raises:
            UserError: if another job, not of this sweep, is in the folder of the new trial.
        """
        with self.turn:  # no other worker can mark a trial as finished meanwhile
            for running in self.trials(TrialState.RUNNING):
                folder = self.folder_of(running.number)
                abandoned = (folder / WORKER_LOCK).exists()
                if claimed := claim(folder):
                    trial = optuna.Trial(self.optuna, running._trial_id)
                    return Taken(trial, draw(trial, self.space), folder, claimed, abandoned)
            begun = len(self.trials()) - len(self.trials(TrialState.WAITING))
            if (limit is not None and begun >= limit) or (self.space.sampler == "grid" and begun == len(self.trials())):
                return None
            self.optuna.sampler = self._sampler(begun)
            trial = self.optuna.ask()
            folder = self.folder_of(trial.number)
            claimed = claim(folder)
            if claimed is None:
                raise UserError(Problem("output_dir", str(folder), "a job that is not of this sweep is in it",
                                        "wait for it, or name another output_dir"))  # fmt: skip
            return Taken(trial, draw(trial, self.space), folder, claimed, False)

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial. Its seed depends on the trial's number, so any worker draws the same values."""
        seed = seed_from(self._seed, "trial", number) % 2**32
        if self.space.sampler == "tpe":
            return TPESampler(n_startup_trials=self.space.startup_trials, seed=seed)
        return RandomSampler(seed=seed)


def journal_problems(journal: Path) -> Iterator[Problem]:
    """Yields a problem if the journal cannot be read. Otherwise Optuna would start a new study with another id."""
    fix = "bring it back from a copy, or name another output_dir"
    trials = sorted(path.parent.name for path in journal.parent.glob("trial-*/config.yaml"))
    text = b""
    try:
        text = read_bytes(journal, MOST_BYTES) if os.path.lexists(journal) else b""
        for line in text.splitlines(keepends=True):
            # The last line may be incomplete; it is removed before the next write.
            if line.endswith(b"\n") and not isinstance(json.loads(line), dict):
                raise ValueError("a line is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        yield Problem("output_dir", str(journal), f"cannot be read: {error}", fix)
        return
    if text and trials and b"\n" not in text:
        yield Problem("output_dir", str(journal), f"has nothing from which {', '.join(trials)} could have come", fix)


def _pruner(space: Space) -> BasePruner:
    """The pruner. It compares trials by number of evaluation, counted from 1, not by outer step."""
    if space.pruner == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=space.startup_trials, n_warmup_steps=space.warmup_evaluations + 1)
