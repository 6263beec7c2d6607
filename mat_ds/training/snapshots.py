"""Scores, exports, saves and restores the weights of a run between two outer steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from mat_ds.artifacts.described import Description, write_description
from mat_ds.artifacts.exported import move_base
from mat_ds.artifacts.members import SNAPSHOTS, keep_only, listed, member_names
from mat_ds.engine import checkpoint
from mat_ds.engine.engine import Engine
from mat_ds.engine.export import export_model
from mat_ds.evaluation.scores import Evaluator, Scores
from mat_ds.methods.base import Fold
from mat_ds.ranks.collectives import on_rank_zero
from mat_ds.runs.options import RunConfig
from mat_ds.storage.folders import copy_files, write_folder
from mat_ds.storage.lock import RunLock
from mat_ds.storage.progress import Progress
from mat_ds.storage.rundir import RunDirectory
from mat_ds.terminal.display import Display
from mat_ds.training.setup import Data


@dataclass(frozen=True)
class Snapshots:
    """What is kept of the weights as they stand. Every rank must call each method.

    Attributes:
        run: the options.
        engine: holds the weights.
        data: its dev splits are scored; its tokenizer is exported with the model.
        evaluator: scores them.
        rundir: where model and checkpoints are written.
        fold: what the method's `prepare_model` returned.
        lock: of the run directory; if another job took it, every method that writes raises `Displaced` on every rank.
        display: shows how far an export has come.
    """

    run: RunConfig
    engine: Engine
    data: Data
    evaluator: Evaluator
    rundir: RunDirectory
    fold: Fold | None
    lock: RunLock
    display: Display

    def evaluate(self, weights: str) -> tuple[Scores, float]:
        """Metrics of each dev split, and the score that selects a model.

        Args:
            weights: `raw` or `average`.
        """
        with self._weights(weights):
            return self.evaluator.scores(self.engine.predict, self.data.examples.dev)

    def export(self) -> None:
        """Writes the model to the run directory.

        Raises:
            SaveError: on every rank, if it could not be written; the model exported before is left as it was.
        """
        with self._weights(self.run.train.export_weights):
            tokenizer, folder, lora = self.data.tokenizer, self.rundir.model, self.run.model.lora
            # The weights are gathered in the first half and written in the second.
            with self.display.part("writing model/", 2.0) as bar:
                export_model(self.engine, tokenizer, folder, lora, self.fold, self.lock.check, bar.move)

    def settle(self, steps: Collection[int], step: int) -> bool:
        """Leaves in `snapshots/` those of the run's chain up to a step; whether that of the step itself is there.

        Args:
            steps: those that the run keeps.
            step: outer steps done.
        """

        def settled() -> bool:
            self.lock.check()
            keep_only(self.rundir.snapshots, {kept for kept in steps if kept <= step})
            return {*self._members(step)} <= listed(self.rundir.snapshots).keys()

        return on_rank_zero(settled)

    def keep(self, step: int) -> None:
        """Writes the parameters after a step to `snapshots/`, as a model folder or as adapters; or those that each chain had
        before they met, unless they are lost.

        Raises:
            SaveError: on every rank, if they could not be written.
        """
        if self.run.train.snapshots_of == "mean":
            return self._keep(*self._members(step))
        if not self.engine.sampler.meeting.kept:
            return self.display.warn(f"no checkpoint has what the chains came to before step {step}; the mixture lacks it")
        for chain, name in enumerate(self._members(step)):
            with self.engine.weights_of_chain(chain):
                self._keep(name)

    def _members(self, step: int) -> list[str]:
        own = self.run.train.snapshots_of == "chains"
        return member_names(step, self.engine.shards.chains.count if own else None)

    def _keep(self, name: str) -> None:
        folder, lora = self.rundir.snapshots / name, self.run.model.lora
        alone = lora.model_copy(update={"merge": False}) if lora else None
        with self.display.part(f"writing snapshots/{folder.name}", 2.0) as bar:
            export_model(self.engine, self.data.tokenizer, folder, alone, self.fold, self.lock.check, bar.move)
        described = Description(self.data.examples.spec, self.data.max_length)
        on_rank_zero(lambda: write_description(folder, described))

    def save(self, progress: Progress) -> checkpoint.Saved:
        """Writes a checkpoint of the engine and of `progress`.

        Raises:
            SaveError: on every rank, if it could not be written; earlier checkpoints are left as they were.
        """
        rundir, keep = self.rundir, self.run.train.keep_last
        best = progress.best["step"] if progress.evaluations else None
        still_ours, writer = self.lock.check, self.lock.token
        return checkpoint.save(self.engine, rundir.checkpoints, asdict(progress), keep, rundir.model, best, still_ours, writer)

    def restore(self, checkpoints: Sequence[Path]) -> tuple[Progress, list[str]]:
        """Restores engine and `model/` from the first checkpoint that is intact.

        Returns:
            The progress saved in it, and remarks on it and the checkpoints before it.

        Raises:
            UserError: on every rank, if none is intact.
        """
        state, remarks = checkpoint.load_checkpoint(self.engine, checkpoints, self.rundir.model, self.lock.check)
        on_rank_zero(lambda: self._take_along(checkpoints[0].parent.parent / SNAPSHOTS))
        return Progress.restored(state), remarks

    def _take_along(self, snapshots: Path) -> None:
        """Copies the snapshots of the run that this one continues in another folder, and names the adapters' base."""
        kept = self.run.train.snapshots and snapshots.resolve() != self.rundir.snapshots.resolve()
        for path in listed(snapshots).values() if kept else ():
            write_folder(self.rundir.snapshots / path.name, partial(copy_files, path), self.lock.check)
        for folder in (self.rundir.model, *listed(self.rundir.snapshots).values()):
            move_base(folder, self.run.model.name)

    def _weights(self, weights: str) -> AbstractContextManager[None]:
        """Within it, the engine has the weights that options call `raw` or `average`."""
        return nullcontext() if weights == "raw" else self.engine.averaged_weights("average")
