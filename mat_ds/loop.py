"""The loop over outer steps: step, log, evaluate, save."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mat_ds.config.schema import RunConfig
from mat_ds.engine.distributed import all_reduce_sum
from mat_ds.engine.engine import Engine
from mat_ds.evaluation import Scores
from mat_ds.methods.base import Method, MicroBatch, Objective
from mat_ds.sampling.schedule import learning_rate
from mat_ds.tasks.loader import TrainLoader
from mat_ds.telemetry import measure
from mat_ds.tracking.tracker import Tracker


@dataclass
class Progress:
    """All of a run that a checkpoint must hold besides the engine's shards; JSON types only.

    Attributes:
        step: outer steps done.
        evaluations: `step`, `score` and the metrics of each evaluation so far; where a running average is kept, those of
            the weights that are not exported under `raw` or `average`.
        seconds: time spent in outer steps.
        samples: training examples seen.
        tokens: their real tokens.
        skipped_steps: inner steps that the engine repeated because fp16 overflowed.
    """

    step: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    skipped_steps: int = 0

    @property
    def best(self) -> dict[str, Any]:
        """The first of the best evaluations."""
        return max(self.evaluations, key=lambda evaluation: float(evaluation["score"]))

    def results(self) -> dict[str, Any]:
        """What `results.json` says of scores and speed."""
        return {
            "steps": self.step,
            **self._summary(self.evaluations),
            **{
                weights: self._summary([{"step": e["step"], **e[weights]} for e in self.evaluations])
                for weights in ("raw", "average")
                if weights in self.evaluations[-1]
            },
            "seconds": self.seconds,
            "samples_per_second": self.samples / max(self.seconds, 1e-9),
            "tokens_per_second": self.tokens / max(self.seconds, 1e-9),
        }

    def _summary(self, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
        last_half = [float(e["score"]) for e in evaluations if e["step"] >= self.step / 2]
        best = max(evaluations, key=lambda evaluation: float(evaluation["score"]))
        return {"last": evaluations[-1], "best": best, "median_last_half": median(last_half)}


def total_steps(run: RunConfig, steps_per_epoch: int) -> int:
    """T, the outer steps of a run."""
    return run.train.max_steps or max(1, round(run.train.epochs * steps_per_epoch))


def evaluation_points(per_epoch: int, steps_per_epoch: int, total: int) -> set[int]:
    """Numbers of done steps after which to evaluate: `per_epoch` times an epoch, evenly, and at the end."""
    epochs = range(-(-total // steps_per_epoch))
    points = {round((e + i / per_epoch) * steps_per_epoch) for e in epochs for i in range(1, per_epoch + 1)}
    return {point for point in points if 0 < point <= total} | {total}


@dataclass
class Loop:
    """Runs a method to the end of its outer steps; every rank runs one.

    Attributes:
        run, engine, method, loader: the options, and who plays on what.
        tracker: takes the records; it does nothing on other ranks than the first.
        shows: whether this rank draws the progress bar.
        progress: how far an earlier process came.
        evaluate: scores the dev splits.
        export: writes the model as it stands to the run directory.
        save: writes a checkpoint of the engine and of `progress`.
    """

    run: RunConfig
    engine: Engine
    method: Method
    objective: Objective
    loader: TrainLoader
    tracker: Tracker
    shows: bool
    progress: Progress
    evaluate: Callable[[str], tuple[Scores, float]]
    export: Callable[[], None]
    save: Callable[[Progress], None]

    def train(self) -> Progress:
        """From where `progress` stands to the last outer step.

        Raises:
            NonFiniteError: on every rank, if the run diverged; what was saved before stays what it was.
        """
        epoch, progress = self.loader.steps_per_epoch, self.progress
        total = total_steps(self.run, epoch)
        lr = learning_rate(self.run.optimizer, total)
        evaluate_after = evaluation_points(self.run.train.eval_per_epoch, epoch, total)
        save_every = self.run.train.save_every or epoch
        # A log file gets a line now and then, a terminal a moving bar.
        often = 0.1 if sys.stderr.isatty() else 10.0
        with tqdm(
            total=total,
            initial=progress.step,
            disable=not self.shows,
            unit="step",
            desc=self.run.method.name,
            mininterval=often,
        ) as bar:
            for step in range(progress.step, total):
                record = self._step(step, lr(step), step / total, bar)
                bar.set_postfix_str(_shown(record, progress), refresh=False)
                bar.update()
                evaluates = progress.step in evaluate_after
                saves = progress.step % save_every == 0 or progress.step == total
                if evaluates or saves:
                    self.engine.check(self.loader.micro_batches(step)[0])
                if evaluates:
                    self._evaluate(bar, is_last=progress.step == total)
                if saves:
                    self.save(progress)
            if not progress.evaluations or progress.evaluations[-1]["step"] != progress.step:
                # Continued with no step left to go, from between two evaluations.
                self._evaluate(bar, is_last=True)
                self.save(progress)
        return progress

    def _step(self, step: int, lr: float, done: float, bar: Any) -> dict[str, Any]:
        """One outer step and its record."""
        every = self.run.train.telemetry_every
        watched = bool(every) and step % every == 0
        self.engine.begin(step, lr, done, watched)
        telemetry = measure(self.engine, self.method, self.objective, self.loader.micro_batches(step)[0]) if watched else {}
        started = time.perf_counter()
        batches = self.loader.micro_batches(step)
        means = self._over_ranks(self.method.step(self.engine, batches), batches)
        seconds = time.perf_counter() - started

        progress, tokens = self.progress, round(means.pop("tokens"))
        progress.step = step + 1
        progress.seconds += seconds
        progress.samples += self.run.train.batch_size
        progress.tokens += tokens
        progress.skipped_steps += self.engine.skipped_since_begin
        record = {
            "step": progress.step,
            "epoch": round(progress.step / self.loader.steps_per_epoch, 4),
            "lr": lr,
            **means,
            "gradient_norm": self.engine.gradient_norm,
            "skipped_steps": progress.skipped_steps,
            "samples_per_second": round(self.run.train.batch_size / seconds, 2),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        self.tracker.log(record)
        if watched:
            chain, outer = self.engine.moved
            self.tracker.log({
                "event": "telemetry", "step": progress.step, **telemetry, "moved_by_chain": chain, "moved": outer,
                "skipped_steps": progress.skipped_steps,
            })  # fmt: skip
            if self.shows and "cosine" in telemetry:
                bar.write(f"step {progress.step}: {_adversary(telemetry)}")
        return record

    def _over_ranks(self, means: dict[str, Tensor], batches: list[MicroBatch]) -> dict[str, float]:
        """This step's means over all ranks, and the number of real tokens in its batch."""
        world_size = self.run.train.batch_size // (self.run.train.micro_batch_size * len(batches))
        tokens = torch.stack([batch.inputs["attention_mask"].sum() for batch in batches]).sum()
        *sums, total = all_reduce_sum(torch.stack([*means.values(), tokens]).double()).tolist()
        return {**{name: value / world_size for name, value in zip(means, sums, strict=True)}, "tokens": total}

    def _evaluate(self, bar: Any, is_last: bool) -> None:
        """Scores the dev splits and exports the model if it is the one wanted so far."""
        evaluation: dict[str, Any] = {"step": self.progress.step}
        chosen = self.run.train.export_weights
        for weights in ("raw", "average") if self.run.model.average != "none" else ("raw",):
            splits, score = self.evaluate(weights)
            if weights == chosen:
                evaluation |= {"score": score, **splits}
            else:
                evaluation[weights] = {"score": score, **splits}
            if self.shows:
                bar.write(f"step {self.progress.step}{', average' if weights == 'average' else ''}: {_scores(splits)}")
        self.progress.evaluations.append(evaluation)
        self.tracker.log({"event": "evaluation", **evaluation})
        if is_last if self.run.train.export == "last" else self.progress.best is evaluation:
            self.export()


def _shown(record: dict[str, Any], progress: Progress) -> str:
    """What stands behind the progress bar: the objective, its parts, the speed, the best dev score so far."""
    parts = [f"{name} {record[name]:.4f}" for name in ("loss", "L", "R") if name in record]
    parts.append(f"{record['samples_per_second']:.0f} examples/s")
    if progress.evaluations:
        parts.append(f"best {progress.best['score']:.4f}")
    return ", ".join(parts)


def _adversary(telemetry: dict[str, float]) -> str:
    """How large the perturbation is, how much of it the compute dtype keeps, and what it adds to R."""
    return (
        "|delta| {delta_linf:.1e}, {cosine:.0%} of it kept; R {R:.2e}, {R_without:.2e} without it, {R_eval:.1e} without dropout"
    ).format(**telemetry)


def _scores(splits: Scores) -> str:
    return "; ".join(
        f"{split}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
        for split, metrics in splits.items()
    )
