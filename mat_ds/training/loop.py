"""The loop over outer steps: step, log, evaluate, save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from mat_ds.engine.checkpoint import Saved
from mat_ds.engine.engine import Engine
from mat_ds.errors import Interrupted, SaveError
from mat_ds.evaluation.scores import Scores
from mat_ds.methods.base import Method
from mat_ds.ranks.collectives import world_size
from mat_ds.runs.options import RunConfig
from mat_ds.runs.steps import evaluation_points, meets_after, snapshot_points, total_steps
from mat_ds.sampling.schedule import cycles_of, learning_rate
from mat_ds.storage.progress import Progress
from mat_ds.tasks.loader import TrainLoader
from mat_ds.tasks.measures import dev_loss
from mat_ds.terminal.display import Display
from mat_ds.terminal.layout import wrapped
from mat_ds.tracking.tracker import Tracker
from mat_ds.training.adversary import adversary_lines
from mat_ds.training.resources import resources
from mat_ds.training.selection import selection_of, stops_early
from mat_ds.training.snapshots import Snapshots
from mat_ds.training.stopping import StopRequests
from mat_ds.training.telemetry import measure, noise_ratio

# Columns before what does not fit into the first line of a message.
INDENT = 4


@dataclass
class Loop:
    """Trains a model with a method; runs on every rank.

    Attributes:
        run: the options.
        engine: holds the model.
        method: trains it.
        loader: yields the micro-batches.
        snapshots: scores, exports and saves the weights.
        tracker: records the events; does nothing on other ranks than the first.
        display: shows the progress.
        stop_requests: decides when the loop is interrupted.
    """

    run: RunConfig
    engine: Engine
    method: Method
    loader: TrainLoader
    snapshots: Snapshots
    tracker: Tracker
    display: Display
    stop_requests: StopRequests

    def train(self, progress: Progress) -> Progress:
        """Trains to the last outer step, or until `train.early_stopping` ends it.

        Args:
            progress: how far an earlier process came; it is kept up to date.

        Raises:
            NonFiniteError: on every rank, if the run diverged; earlier checkpoints are left as they were.
            Interrupted: on every rank, if one was told to stop, after saving a checkpoint. An outer step that has begun is
                completed first, unless it has not changed the parameters yet.
            SaveError: on every rank, if a checkpoint or the model could not be written and `train.on_save_failure` is `stop`.
        """
        epoch = self.loader.steps_per_epoch
        total = total_steps(self.run, epoch)
        cycles = cycles_of(self.run.optimizer, self.run.sampling, total) if self.run.sampling.cycles else None
        lr = learning_rate(self.run.optimizer, total, cycles)
        evaluate_after = evaluation_points(self.run.train.eval_per_epoch, epoch, total, self.run.train.local_steps)
        save_every = self.run.train.save_every or epoch
        saved_at, of_chains = progress.step, self.run.train.snapshots_of == "chains"
        keeps = snapshot_points(self.run, total, self.engine.shards.chains.count if of_chains else 1)
        if keeps and not self.snapshots.settle(keeps, progress.step) and progress.step in keeps:  # interrupted before it
            self._written(partial(self.snapshots.keep, progress.step))
        with self.display.bar(self.run.method.name, total, progress.step) as bar:
            try:
                if progress.step in evaluate_after and not progress.evaluated:  # interrupted before the evaluation
                    self._evaluate(progress, is_last=progress.step == total)
                    saved_at = -1
                elif progress.evaluated and self._ends(progress, total):  # the disk may have been full before
                    self._export_if_wanted(progress, is_last=True)
                for step in range(progress.step, progress.step if self._ends(progress, total) else total):
                    record = self._step(progress, lr(step), total, of_chains and step + 1 in keeps)
                    bar.tell(*_bar_facts(record, progress, self.run.train.batch_size))
                    bar.update()
                    stop, due = self.stop_requests.told_to_stop_or_save()
                    if stop:
                        self.engine.check(self.loader.micro_batches(step)[0])
                        if of_chains and progress.step in keeps:  # which no checkpoint has
                            self._written(partial(self.snapshots.keep, progress.step))
                        raise Interrupted(self.stop_requests.reason)
                    evaluates = progress.step in evaluate_after
                    saves = due or progress.step % save_every == 0 or progress.step == total
                    if evaluates or saves or progress.step in keeps:
                        self.engine.check(self.loader.micro_batches(step)[0])
                    if progress.step in keeps:
                        self._written(partial(self.snapshots.keep, progress.step))
                    if evaluates:
                        self._evaluate(progress, is_last=progress.step == total)
                        bar.tell(*_bar_facts(record, progress, self.run.train.batch_size))
                    if saves and self._save(progress):
                        saved_at = progress.step
                    if self._ends(progress, total):
                        break
                if saved_at != progress.step:
                    self._save(progress)
            except Interrupted:
                if saved_at != progress.step:
                    self._save(progress)
                raise
        return progress

    def _ends(self, progress: Progress, total: int) -> bool:
        """Whether training has ended: all steps are done, or `train.early_stopping` ends it at this evaluation."""
        stops = progress.evaluated and stops_early(self.run.train.early_stopping, progress.evaluations)
        return progress.step == total or stops

    def _save(self, progress: Progress) -> bool:
        """Writes a checkpoint and logs its time and size; returns whether it could be written."""
        made: list[Saved] = []
        if not self._written(lambda: made.append(self.snapshots.save(progress))):
            return False
        (saved,) = made
        self.stop_requests.saved()
        self.tracker.log({"event": "checkpoint", "step": progress.step, "seconds": saved.seconds, "bytes": saved.bytes})
        return True

    def _step(self, progress: Progress, lr: float, total: int, keeps: bool) -> dict[str, Any]:
        """Makes one outer step, updates `progress`, and returns the step's record.

        Args:
            progress: before the step.
            lr: learning rate.
            total: outer steps of the run.
            keeps: whether each chain's own parameters are kept after it.
        """
        step, every = progress.step, self.run.train.telemetry_every
        watched = bool(every) and step % every == 0
        self.engine.begin(step, lr, step / total, watched, meets_after(self.run, step + 1, total), keeps)
        telemetry = measure(self.engine, self.method, self.loader.micro_batches(step)[0]) if watched else {}
        started = time.perf_counter()
        batches = self.loader.micro_batches(step)
        measured = self.method.step(self.engine, batches)
        real_tokens = torch.stack([batch.inputs["attention_mask"].sum() for batch in batches]).sum()
        means = self.engine.end({**measured, "tokens": real_tokens})
        seconds = time.perf_counter() - started

        tokens = round(means.pop("tokens") * world_size())
        progress.step = step + 1
        progress.seconds += seconds
        progress.samples += self.run.train.batch_size
        progress.tokens += tokens
        progress.skipped_steps += self.engine.skipped_since_begin
        record = {
            "event": "step",
            "step": progress.step,
            "epoch": round(progress.step / self.loader.steps_per_epoch, 4),
            "lr": lr,
            **self._uneven(lr),
            **means,
            "gradient_norm": self.engine.gradient_norm,
            "skipped_steps": progress.skipped_steps,
            "samples_per_second": round(self.run.train.batch_size / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        self.tracker.log(record)
        if watched:
            (chain, outer), (drift, noise) = self.engine.moved, self.engine.parts
            telemetry |= {"theta_drift": drift, "theta_noise": noise, "theta_noise_ratio": noise_ratio(drift, noise)}
            telemetry |= self.engine.spread
            self.tracker.log({
                "event": "telemetry", "step": progress.step, **telemetry, "moved_by_chain": chain, "moved": outer,
                "skipped_steps": progress.skipped_steps,
            })  # fmt: skip
            self.tracker.log(resources(progress.step, self.engine.device))
            if "cosine" in telemetry:
                said = adversary_lines(progress.step, telemetry, self.method.settings)
                self.display.say(*(wrapped(line, INDENT) for line in said))
        return record

    def _uneven(self, lr: float) -> dict[str, float]:
        """The smallest and the largest step size of a parameter, if they differ."""
        if not self.run.optimizer.uneven:
            return {}
        smallest, largest = self.engine.shards.rates
        return {"lr_smallest": smallest * lr, "lr_largest": largest * lr}

    def _evaluate(self, progress: Progress, is_last: bool) -> None:
        """Scores the dev splits, and exports the model if `train.export` asks for the current one."""
        evaluation: dict[str, Any] = {"step": progress.step}
        chosen = self.run.train.export_weights
        for weights in ("raw", "average") if self.run.model.average != "none" else ("raw",):
            splits, score = self.snapshots.evaluate(weights)
            found = {"score": score, **selection_of(self.run.train.select_by, splits), **splits}
            evaluation |= found if weights == chosen else {weights: found}
            average = ", average" if weights == "average" else ""
            self.display.say(wrapped(f"step {progress.step}{average}: {_scores(splits)}", INDENT))
        progress.evaluations.append(evaluation)
        self.tracker.log({"event": "evaluation", **evaluation})
        self.tracker.log(resources(progress.step, self.engine.device))
        self._export_if_wanted(progress, is_last or stops_early(self.run.train.early_stopping, progress.evaluations))

    def _export_if_wanted(self, progress: Progress, is_last: bool) -> None:
        """Exports the current weights if `train.export` asks for them (as the best so far or the last) and `model/` lacks
        them."""
        if progress.exported == progress.step or not (is_last if self.run.train.export == "last" else progress.improved):
            return
        if self._written(self.snapshots.export):
            progress.exported = progress.step

    def _written(self, write: Callable[[], None]) -> bool:
        """Calls what writes; whether it could. Raises its error if `train.on_save_failure` is `stop`."""
        try:
            write()
        except SaveError as error:
            if self.run.train.on_save_failure == "stop":
                raise
            self.display.warn(f"{error}; training goes on without it")
            return False
        return True


def _bar_facts(record: dict[str, Any], progress: Progress, batch_size: int) -> Iterator[str]:
    """Yields what stands behind the bar, the most important first: the objective, the best dev score so far, the speed, the
    last dev loss, the parts of the objective."""
    yield f"loss {record['loss']:.4f}"
    if progress.evaluations:
        yield f"best {progress.best['score']:.4f}"
    speed = record["samples_per_second"]
    yield f"{speed:,.0f} examples/s" if speed > batch_size else f"{batch_size / max(speed, 0.005):,.1f} s/step"
    if progress.evaluations and (loss := dev_loss(progress.evaluations[-1])) is not None:
        yield f"dev loss {loss:.4f}"
    yield from (f"{name} {record[name]:.4f}" for name in ("L", "R") if name in record)


def _scores(splits: Scores) -> str:
    return "; ".join(
        f"{split}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        for split, metrics in splits.items()
    )
