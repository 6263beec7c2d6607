"""A worker of a sweep: trains one trial after another, reports its dev scores, and records how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from mat_ds.errors import ExitCode, raise_if_any
from mat_ds.storage.leases import LOOK
from mat_ds.sweeps.launching import Launching
from mat_ds.sweeps.mirror import tracking_options
from mat_ds.sweeps.pace import Pace
from mat_ds.sweeps.space import overrides
from mat_ds.sweeps.standings import publish
from mat_ds.sweeps.study import SharedStudy, Taken
from mat_ds.sweeps.training import End, Scores, last_step, results_of, scores_of, train_until_done
from mat_ds.terminal.stop_signals import StopSignals

Say = Callable[[str], None]
# MLflow's status for a sweep whose last worker ended with an exit code; FAILED for all other codes.
ENDS = {ExitCode.OK: "FINISHED", ExitCode.REQUEUE: "KILLED"}


@dataclass(frozen=True)
class Worker:
    """One worker of a sweep.

    Attributes:
        study: the trials of all workers.
        launching: how they are trained.
        stop_signals: knows whether this process has been told to stop.
        tell: updates MLflow, given the status to set if no other worker is left.
        say: shows a line of progress.
        pace: shows how far all trials are.
    """

    study: SharedStudy
    launching: Launching
    stop_signals: StopSignals
    tell: Callable[[str], None]
    say: Say
    pace: Pace

    def work(self, limit: int | None) -> ExitCode:
        """Trains trials until none is left to take.

        Args:
            limit: number of trials of the whole sweep; None: those of the grid.

        Returns:
            0 if all trials are finished or claimed by other workers. 75 if this worker was told to stop. 2 if a trial was
            refused for its input before any trial got a score, which means that all would be. 1 if no trial has a score.
        """
        code = ExitCode.FAILED
        try:
            code = self._work(limit)
        finally:
            self.tell(ENDS.get(code, "FAILED"))
        return code

    def _work(self, limit: int | None) -> ExitCode:
        while not self.stop_signals.received:
            unclear = self.study.unclear  # asked first, because a lease may expire before `take`
            if not (taken := self.study.take(limit)):
                if not unclear:
                    break
                time.sleep(LOOK)
                continue
            try:
                self.tell("RUNNING")
                code = self._train(taken)
                publish(self.study, self.launching)
            finally:
                taken.claim.release()
            if code is not None:
                return code
        if self.stop_signals.received:
            return ExitCode.REQUEUE
        return ExitCode.OK if self.study.trials(TrialState.COMPLETE, TrialState.RUNNING) else ExitCode.FAILED

    def _train(self, taken: Taken) -> ExitCode | None:
        """Trains one trial to its end.

        Returns:
            An exit code if the worker must stop, otherwise None.

        Raises:
            UserError: if a run with other options is in the trial's folder.
        """
        trial, folder = taken.trial, taken.folder
        raise_if_any(self.launching.foreign(overrides(taken.values), folder))
        verb = "goes on" if (folder / "config.yaml").exists() else "begins"
        self.say(f"{folder.name} {verb} ({self.pace.begins(trial.number + 1)}): {' '.join(overrides(taken.values))}")
        if taken.abandoned and not results_of(folder):
            step, before = last_step(folder), trial.user_attrs.get("died_at")
            trial.set_user_attr("died_at", step)
            if before is not None and step <= before:
                return self._fail(taken, End(None, False, 1, "the worker died again, and the trial had got no further"))
        watch = Watch(self, taken)
        if results := results_of(folder):  # the previous worker died before it could record the end
            watch.report()
            end = End(results, False, 0, "")
        else:
            options = [
                *overrides(taken.values),
                *tracking_options(self.launching.run, self.study.folder, trial.number, self.study.run_id),
            ]
            end = train_until_done(lambda: self.launching.command(folder, options), folder, watch, self.say,
                            trial.user_attrs.get("died_at"), lambda step: trial.set_user_attr("died_at", step))  # fmt: skip
        taken.claim.check()
        if end.code == ExitCode.DISPLACED:
            self.say(f"{folder.name} is in other hands: another job has taken it over")
            return None
        if end.results:
            self._complete(taken, end.results)
            return None
        if end.interrupted and watch.pruned:
            self.study.optuna.tell(trial, state=TrialState.PRUNED)
            self.say(f"{folder.name} is pruned: its score is below the median")
            return None
        if end.interrupted:
            self.say(f"{folder.name} is saved, and goes on when this command is run again")
            return ExitCode.REQUEUE
        return self._fail(taken, end)

    def _complete(self, taken: Taken, results: dict[str, Any]) -> None:
        found = scores_of(results)
        for name, score in found.items():
            taken.trial.set_user_attr(name, score)
        self.study.optuna.tell(taken.trial, found[self.study.space.objective])
        shown = ", ".join(f"{name} {score:.4f}" for name, score in found.items())
        self.say(f"{taken.folder.name} is done: {shown}")

    def _fail(self, taken: Taken, end: End) -> ExitCode | None:
        taken.trial.set_user_attr("reason", end.reason)
        self.study.optuna.tell(taken.trial, state=TrialState.FAIL)
        self.say(f"{taken.folder.name} failed: {end.reason}")
        got_going = any(trial.intermediate_values for trial in self.study.trials())
        return ExitCode.USER_ERROR if end.code == ExitCode.USER_ERROR and not got_going else None


class Watch:
    """Reports the evaluations of a trial to Optuna while it trains. A call returns whether the training must stop."""

    def __init__(self, worker: Worker, taken: Taken):
        self._worker, self._taken, self._scores = worker, taken, Scores(taken.folder)
        number = taken.trial.number
        known = next(trial for trial in worker.study.trials() if trial.number == number)
        self._reported = len(known.intermediate_values)
        self.pruned = False

    def __call__(self) -> bool:
        self.report()
        self._worker.pace.follow(self._scores.latest)
        return self.pruned or self._worker.stop_signals.received is not None

    def report(self) -> None:
        """Reports new evaluations. Once a trial was below the median at an evaluation, it stays pruned."""
        scores = self._scores()
        for index, (step, score) in enumerate(scores[self._reported :], self._reported + 1):
            self._taken.trial.report(score, index)
            best = max(score for _, score in scores[:index])
            self._worker.say(f"{self._taken.folder.name} step {step}: score {score:.4f}, best {best:.4f}")
            self.pruned = self.pruned or self._taken.trial.should_prune()
        self._reported = len(scores)
