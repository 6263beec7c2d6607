"""The study of a sweep: Optuna's, in a journal file that many workers on many nodes write to, and whose turn it is.

SQLite on a network disk locks up or breaks; a journal is appended to under a lock that is made of a file's existence, which
network disks get right. Journals have no heartbeat: a trial's worker lives if its lock in the trial's folder does.
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
from mat_ds.storage.reading import read_bytes
from mat_ds.sweeps.space import Space, Values, draw
from mat_ds.sweeps.training import Claim, claim, is_claimed, is_unclear
from mat_ds.sweeps.turns import Turn

JOURNAL = "journal.log"
MOST_BYTES = 1 << 30


class JournalLock(JournalFileOpenLock):
    """The journal is written by whose turn it is: Optuna's own locks take away what they find after half a minute, be it
    another's by then.

    A worker that lost power may have left half a line, which nobody was told had been written and which would make all that
    follow unreadable: whoever writes next takes it away.
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
    """A trial that is this worker's.

    Attributes:
        trial: Optuna's, with a value for every option.
        values: these.
        claim: its run directory.
    """

    trial: optuna.Trial
    values: Values
    claim: Claim


class SharedStudy:
    """A sweep's trials, by all its workers.

    Args:
        folder: of the sweep.
        space: what it searches.
        definition: what else makes its trials comparable, as JSON has it.
        seed: key of the draws.

    Raises:
        UserError: if the folder holds a sweep of something else.
    """

    def __init__(self, folder: Path, space: Space, definition: dict[str, Any], seed: int):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder, self.space, self._seed = folder, space, seed
        folder.mkdir(parents=True, exist_ok=True)
        journal, self.turn = folder / JOURNAL, Turn(folder)
        with self.turn:
            raise_if_any(journal_problems(journal))
            storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(journal, self.turn)))
            # The folder may be renamed, so the study has a name of its own.
            self.optuna = optuna.create_study(storage=storage, study_name="sweep", direction="maximize", load_if_exists=True,
                                              sampler=self._sampler(0), pruner=_pruner(space))  # fmt: skip
            self._define({"space": space.model_dump(mode="json"), **definition})

    def _define(self, definition: dict[str, Any]) -> None:
        """Writes down what this sweep is, or compares."""
        known = self.optuna.user_attrs
        if "definition" in known:
            raise_if_any(redefined(known["definition"], definition, f"the sweep in {self.folder}"))
            return
        if self.space.sampler == "grid":
            begun = bool(self.trials())  # by a worker that died before it was through
            for values in self.space.grid:
                self.optuna.enqueue_trial(values, skip_if_exists=begun)
        self.optuna.set_user_attr("run_id", uuid.uuid4().hex)
        self.optuna.set_user_attr("definition", definition)

    @property
    def run_id(self) -> str:
        """This program's own id of the sweep, for trackers."""
        return str(self.optuna.user_attrs["run_id"])

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """All trials, or those in some states, in order."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @property
    def in_work(self) -> bool:
        """Whether a worker, this one or another, is at a trial."""
        return any(is_claimed(self.folder_of(trial.number)) for trial in self.trials())

    @property
    def unclear(self) -> bool:
        """Whether there is a trial of which it is not known yet whether its worker, or its training, is gone."""
        return any(is_unclear(self.folder_of(trial.number)) for trial in self.trials(TrialState.RUNNING))

    def folder_of(self, number: int) -> Path:
        """The run directory of a trial."""
        return self.folder / f"trial-{number:04}"

    def take(self, limit: int | None) -> Taken | None:
        """A trial whose worker stopped or died, else a new one; None if all are done or in other hands.

        Args:
            limit: how many there are to be in all; None: as many as the grid has.
        """
        with self.turn:  # in which no other worker marks a trial as done
            for running in self.trials(TrialState.RUNNING):
                if claimed := claim(self.folder_of(running.number)):
                    return self._take(optuna.Trial(self.optuna, running._trial_id), claimed)
            begun = len(self.trials()) - len(self.trials(TrialState.WAITING))
            if (limit is not None and begun >= limit) or (self.space.sampler == "grid" and begun == len(self.trials())):
                return None
            self.optuna.sampler = self._sampler(begun)
            trial = self.optuna.ask()
            claimed = claim(self.folder_of(trial.number))
            if claimed is None:
                folder = str(self.folder_of(trial.number))
                raise UserError(Problem("output_dir", folder, "a job that is not of this sweep is in it",
                                        "wait for it, or name another output_dir"))  # fmt: skip
            return self._take(trial, claimed)

    def _take(self, trial: optuna.Trial, claimed: Claim) -> Taken:
        return Taken(trial, draw(trial, self.space), claimed)

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial, keyed by its number: which worker asks changes nothing."""
        seed = seed_from(self._seed, "trial", number) % 2**32
        if self.space.sampler == "tpe":
            return TPESampler(n_startup_trials=self.space.startup_trials, seed=seed)
        return RandomSampler(seed=seed)


def journal_problems(journal: Path) -> Iterator[Problem]:
    """Whether the journal of a sweep is one: what cannot be read would be begun anew, under another id."""
    fix = "bring it back from a copy, or name another output_dir"
    trials = sorted(path.parent.name for path in journal.parent.glob("trial-*/config.yaml"))
    text = b""
    try:
        text = read_bytes(journal, MOST_BYTES) if os.path.lexists(journal) else b""
        for line in text.splitlines(keepends=True):
            # The last one may have been cut short, and is taken away by whoever writes next.
            if line.endswith(b"\n") and not isinstance(json.loads(line), dict):
                raise ValueError("a line is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        yield Problem("output_dir", str(journal), f"cannot be read: {error}", fix)
        return
    if text and trials and b"\n" not in text:
        yield Problem("output_dir", str(journal), f"has nothing from which {', '.join(trials)} could have come", fix)


def _pruner(space: Space) -> BasePruner:
    """Steps are evaluations, counted from 1: trials may differ in how many outer steps lie between."""
    if space.pruner == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=space.startup_trials, n_warmup_steps=space.warmup_evaluations + 1)


def redefined(before: dict[str, Any], now: dict[str, Any], what: str) -> list[Problem]:
    """Where the definition of what is in a folder is not what it was begun with.

    Args:
        what: is in the folder.
    """
    fix = "take it back, or start anew with another output_dir"
    return [Problem(key, new, f"{what} has {old!r}", fix) for key, old, new in differences(before, now)]


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: dotted key, old and new value."""
    for key in [*before, *(key for key in now if key not in before)]:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
