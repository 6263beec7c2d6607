"""The checked input of a run, in four parts: its options, its data, its model and where it starts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from mat_ds.models.build import Built
from mat_ds.ranks.world import World
from mat_ds.runs.ds_config import owned_values
from mat_ds.runs.options import RunConfig
from mat_ds.runs.resume import run_of
from mat_ds.storage.rundir import RunDirectory
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.kinds.base import Kind
from mat_ds.tasks.loader import Collator
from mat_ds.tasks.loss import TrainedLoss


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        run: the options of the run.
        ds_config: DeepSpeed's complete configuration.
        dry_run: whether to stop before the first step.
        quiet, json: whether to print warnings and the result only, and the result as JSON.
        remarks: warnings about options that are valid but have no effect.
        chosen: whether the micro-batch was chosen for this rank's device, so that other ranks may have chosen another.
    """

    run: RunConfig
    ds_config: dict[str, Any]
    dry_run: bool = False
    quiet: bool = False
    json: bool = False
    remarks: tuple[str, ...] = ()
    chosen: bool = False

    def at_micro_batch(self, size: int, world: World) -> Options:
        """The same with a micro-batch that was chosen."""
        run = self.run.at_micro_batch(size)
        return replace(self, run=run, ds_config={**self.ds_config, **owned_values(run, world)}, chosen=True)


@dataclass(frozen=True)
class Data:
    """What a run trains on.

    Attributes:
        examples: all examples of the task.
        tokenizer: the model's.
        max_length: number of tokens at which an input is truncated.
        objective: what the method trains on; None: the kind of the task, whose loss no option changes.
        length_step: see `Collator`.
    """

    examples: TaskData
    tokenizer: Any
    max_length: int
    objective: TrainedLoss | None = None
    length_step: int = 1

    @property
    def kind(self) -> Kind:
        """The kind of the task."""
        return kind_of(self.examples.spec)

    @property
    def collate(self) -> Collator:
        """Turns examples into model inputs."""
        return Collator(self.tokenizer, self.max_length, self.kind, self.length_step)


class Size(NamedTuple):
    """Number of elements of all parameters of a model, and of the trained ones."""

    parameters: int
    trained: int

    @property
    def text(self) -> str:
        """For a person; which of them are trained is said if not all are."""
        part = "" if self.trained == self.parameters else f", {self.trained:,} of them trained"
        return f"{self.parameters:,} parameters{part}" + (f" ({self.trained / self.parameters:.1%})" if part else "")


@dataclass
class Model:
    """What a run trains.

    Attributes:
        built: the model, until `take` hands it over.
        fresh: names of its randomly initialised weights.
        head: what was done with an existing head whose labels differ from the task's.
        unpadded: whether its encoder computes real tokens only.
    """

    built: Built | None
    fresh: list[str]
    head: str
    unpadded: bool

    def take(self) -> Built:
        """Hands the model over once: if it were kept here too, its weights would outlive the engine that shards them."""
        built, self.built = self.built, None
        assert built is not None
        return built


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        data_digest: SHA-256 of all examples and the vocabulary.
        weights_digest: SHA-256 of the `trained` and of the `frozen` weights; checkpoints do not contain the latter.
        checkpoints: those to continue from, in the order in which they are tried; empty for a new run.
    """

    data_digest: str
    weights_digest: dict[str, str]
    checkpoints: list[Path]

    @property
    def before(self) -> RunDirectory | None:
        """Directory of the run to continue; None for a new run."""
        return run_of(self.checkpoints) if self.checkpoints else None


class Setup(NamedTuple):
    """A run that can start."""

    options: Options
    data: Data
    model: Model
    start: Start

    @property
    def fingerprint(self) -> str:
        """Equal on two ranks if they were given the same options, data, vocabulary and weights."""
        digest = hashlib.sha256(self.options.run.model_dump_json().encode())
        rest = [self.options.ds_config, self.start.data_digest, self.start.weights_digest]
        digest.update(json.dumps(rest, sort_keys=True).encode())
        return digest.hexdigest()
