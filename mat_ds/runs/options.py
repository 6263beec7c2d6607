"""All options of a run. Each section is defined in the room that reads it; this module nests them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from mat_ds.config.paths import PathText
from mat_ds.config.section import Count, CountOrAuto, OneOf, Positive, Section
from mat_ds.errors import Problem
from mat_ds.methods import METHODS
from mat_ds.methods.base import units_text
from mat_ds.methods.mat import MatSettings
from mat_ds.methods.settings import MethodSettings
from mat_ds.models.options import ModelConfig
from mat_ds.sampling.options import OptimizerConfig, SamplingConfig
from mat_ds.tasks.augment import BENIGN
from mat_ds.tasks.examples import TaskData
from mat_ds.tasks.kinds import kind_of
from mat_ds.tasks.loss import LossConfig
from mat_ds.tasks.measures import LOSS
from mat_ds.tasks.options import DataConfig
from mat_ds.tasks.spec import TaskSpec
from mat_ds.tracking.options import TrackingConfig

# The smallest micro-batch that is evaluated where none is named: passes without a graph need little memory.
LEAST_EVALUATED = 32


class EarlyStopping(Section):
    patience: Count = Field(3, description="evaluations in a row without a better one after which training ends")
    min_delta: Annotated[float, Field(ge=0.0)] = Field(0.0, description="a better one is better by more than this")


class TrainConfig(Section):
    epochs: Annotated[float, Field(gt=0.0, le=1e6)] = Field(3.0, description="passes over the training examples")
    max_steps: Annotated[int, Field(ge=1, le=10**9)] | None = Field(None, description="outer steps (batches); wins over epochs")
    budget: Annotated[int, Field(ge=1, le=10**15)] | None = Field(
        None,
        description="forward passes of one example that the run may cost, a backward pass counting twice; in place of epochs "
        "and max_steps, so that methods of different cost do equal work",
    )
    batch_size: Count = Field(32, description="examples of one outer step, over all ranks")
    micro_batch_size: CountOrAuto = Field(
        "auto",
        description="examples of one forward pass on one rank; accumulation = batch_size / (this x ranks); auto: the most, up "
        "to 64, that the smallest GPU of the run is estimated to hold, or up to 32 on a CPU; config.yaml has the number",
    )
    eval_micro_batch_size: Count | None = Field(
        None, description=f"the same in evaluation; null: {LEAST_EVALUATED}, or micro_batch_size if that is more"
    )
    eval_per_epoch: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1, description="evaluations per epoch, evenly spread; the end of training is always evaluated"
    )
    local_steps: Count = Field(
        1, description="outer steps that each of several chains (method.chains) makes before they meet; with vanilla: local SGD"
    )
    telemetry_every: Annotated[int, Field(ge=0)] = Field(
        100, description="outer steps between measurements of what the adversary does; 0: never"
    )
    export: Literal["best", "last"] = Field("best", description="which weights go to `model/`")
    export_weights: Literal["raw", "average"] = Field(
        "raw", description="which are scored, selected and exported: the parameters or their model.average"
    )
    select_by: str | None = Field(
        None,
        description="which evaluation is the best: a metric of the task, or loss (less is better), their mean over the dev "
        "splits; or <split>/<metric>; null: the score",
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="end training when the dev splits gain no more; any `train.early_stopping.*` turns it on; schedules keep "
        "the length that epochs, max_steps or budget plan",
    )
    snapshots: Annotated[int, Field(ge=0, le=1000)] = Field(
        0,
        description="members of the mixture: parameters kept in `snapshots/`, at evenly spaced steps of the last half, to "
        "the last; with sampling.cycles, of the part of each cycle that sampling.explore leaves; 0: none",
    )
    snapshots_of: Literal["mean", "chains"] = Field(
        "mean",
        description="with method.chains: the mean of the chains, or what each had come to before they met (all are counted)",
    )
    save_every: Count | None = Field(None, description="outer steps between checkpoints; null: one per epoch")
    save_minutes: Positive | None = Field(30.0, description="minutes after which one is saved in any case; null: never")
    keep_last: Count = Field(2, description="checkpoints kept, beside that of the best evaluation")
    on_save_failure: Literal["stop", "continue"] = Field(
        "stop", description="training where a checkpoint or the model cannot be written, as on a full disk"
    )
    resume: PathText = Field(
        "never",
        description="never; auto: from the newest whole checkpoint of output_dir, if it has one; or a run or checkpoint folder",
    )
    deterministic: bool = Field(False, description="bit-identical runs on a GPU too (slower kernels)")
    timeout_minutes: Annotated[float, Field(gt=0.0, le=10080.0)] = Field(
        30.0, description="how long a rank waits for the others before the run ends; more where disks are slow"
    )

    @property
    def micro_batch(self) -> int:
        """The `micro_batch_size` of a run whose `auto` has been replaced by a number."""
        assert self.micro_batch_size != "auto"
        return self.micro_batch_size

    @property
    def eval_micro_batch(self) -> int:
        """Examples of one pass on one rank in evaluation."""
        return self.eval_micro_batch_size or max(LEAST_EVALUATED, self.micro_batch)


MethodConfig = Annotated[MethodSettings, OneOf(lambda: {name: method.Settings for name, method in METHODS.items()})]


class RunConfig(Section):
    task: PathText = Field("demo", description="a task of the registry, or a task YAML of your own")
    output_dir: PathText | None = Field(None, description="run directory; null: `runs/<task>-<method>-<time>`")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="key of every random draw of the run")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()
    method: MethodConfig = MatSettings()
    loss: LossConfig = LossConfig()
    tracking: TrackingConfig = TrackingConfig()
    plugins: dict[str, str] = Field(
        {},
        description="written by the run: files that its method and task came from, and their SHA-256; loads nothing, "
        "--plugin does",
    )

    def at_micro_batch(self, size: int) -> RunConfig:
        """The same run with another micro-batch."""
        return self.model_copy(update={"train": self.train.model_copy(update={"micro_batch_size": size})})

    def tracked(self) -> RunConfig:
        """The same run with what MLflow's variables decide about its tracking."""
        return self.model_copy(update={"tracking": self.tracking.settled()})


def cost_of(settings: MethodSettings) -> int | Fraction:
    """Cost of an outer step of a method in forward passes of its batch."""
    return METHODS[settings.name](settings, None).cost  # type: ignore[arg-type]


def budget_steps(run: RunConfig) -> int:
    """The outer steps that `train.budget` pays for; 0 without a budget."""
    return (run.train.budget or 0) // (cost_of(run.method) * run.train.batch_size)


def micro_batch_sizes(train: TrainConfig, world_size: int, most: int | None = None) -> list[int]:
    """The numbers of examples, up to `most`, that divide each rank's share of the batch, smallest first."""
    share = train.batch_size // world_size
    return [size for size in range(1, min(share, most or share) + 1) if share % size == 0]


def batch_problems(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    """Checks that the batch can be divided among the ranks; a problem names sizes that work.

    Args:
        train: the requested batch sizes.
        world_size: number of ranks of the run.
    """
    if train.batch_size % world_size:
        below, above = train.batch_size // world_size * world_size, -(-train.batch_size // world_size) * world_size
        working = " or ".join(str(size) for size in (below, above) if size)
        reason = f"is not divisible by the {world_size} ranks of this run"
        yield Problem("train.batch_size", train.batch_size, reason, f"use train.batch_size={working}")
    elif train.micro_batch_size != "auto" and (share := train.batch_size // world_size) % train.micro_batch_size:
        working = ", ".join(map(str, micro_batch_sizes(train, world_size)))
        reason = f"does not divide the {share} of {train.batch_size} examples that each of {world_size} ranks has of a batch"
        yield Problem("train.micro_batch_size", train.micro_batch_size, reason, f"use one of {working}")


def combination_problems(run: RunConfig, world_size: int) -> Iterator[Problem]:
    """Checks options that are valid on their own but not together."""
    yield from batch_problems(run.train, world_size)
    if run.train.export_weights == "average" and run.model.average == "none":
        reason = "no average of the weights is kept (model.average=none)"
        yield Problem("train.export_weights", "average", reason, "pass model.average=ema or model.average=uniform")
    yield from run.optimizer.problems()
    if run.sampling.changed:
        chain = METHODS[run.method.name](run.method, None).chain  # type: ignore[arg-type]
        yield from run.sampling.problems(run.optimizer, chain)
    if run.sampling.cycles and run.train.snapshots % run.sampling.cycles:
        reason = f"cannot be spread evenly over sampling.cycles={run.sampling.cycles}"
        yield Problem("train.snapshots", run.train.snapshots, reason, "take a multiple of it")
    if run.train.budget and run.train.max_steps:
        reason = f"train.max_steps={run.train.max_steps} says too how long the run is"
        yield Problem("train.budget", run.train.budget, reason, "leave one of the two out")
    elif run.train.budget and not budget_steps(run):
        cost = cost_of(run.method) * run.train.batch_size
        reason = f"is less than one outer step of {run.method.name} costs, {units_text(cost)} forward passes"
        yield Problem("train.budget", run.train.budget, reason, "allow more, or take a smaller train.batch_size")
    if run.train.early_stopping and not run.train.eval_per_epoch:
        reason = "has nothing to go by: the run is evaluated at its end alone (train.eval_per_epoch=0)"
        yield Problem("train.early_stopping", None, reason, "pass train.eval_per_epoch=1 or more")
    yield from run.method.problems()
    yield from run.tracking.problems()
    if run.model.lora and run.model.name == ModelConfig().name:
        reason = f"{run.model.name} has random weights: adapters need a pre-trained model"
        yield Problem("model.lora", f"r={run.model.lora.r}", reason, "name one with model.name=<folder or hub id>")
    for option in ("freeze", "freeze_layers"):
        if run.model.lora and (value := getattr(run.model, option)):
            reason = "adapters freeze the whole model, all but the head and what the folder has no weights for"
            fix = "leave one of the two out; model.lora.target_modules=[...] says which layers get adapters"
            yield Problem(f"model.{option}", value, reason, fix)
    if run.train.resume == "auto" and run.output_dir is None:
        fix = "pass output_dir=<folder> and keep it the same when you start the job again"
        yield Problem("train.resume", "auto", "without output_dir there is no run to look for", fix)


def task_problems(run: RunConfig, spec: TaskSpec) -> Iterator[Problem]:
    """Yields a problem if method or loss is not defined for the task, or the task has not what selects the model."""
    kind = kind_of(spec)
    split, slash, name = (run.train.select_by or LOSS).rpartition("/")
    measured = (*spec.metrics, LOSS)
    if name not in measured or (slash and split not in spec.dev):
        reason = f"is not measured: {spec.name} has {', '.join(measured)} on {', '.join(spec.dev)}"
        yield Problem("train.select_by", run.train.select_by, reason, "name one of those, or <split>/<metric>")

    def defined(settings: type[MethodSettings]) -> bool:
        return (kind.distributions or not settings.needs_distributions) and bool(kind.outputs or not settings.needs_head)

    if not defined(type(run.method)):
        able = ", ".join(name for name, method in METHODS.items() if defined(method.Settings))
        yield Problem(
            "method.name", run.method.name, f"is not defined for {kind.name}, and {spec.name} is one", f"take one of {able}"
        )
    if run.data.augment and not kind.augments:
        reason = f"is not there for {kind.name}: its texts are cut into windows once, before the first epoch"
        yield Problem("data.augment", None, reason, "leave it out")
    if run.data.augment and kind.label_per_text and BENIGN in run.data.augment.kinds:
        yield Problem("data.augment.kinds", BENIGN, "adds words that have no labels", "name changes of characters alone")
    yield from run.loss.problems(spec)


def size_problems(run: RunConfig, data: TaskData) -> Iterator[Problem]:
    """Yields a problem if there are fewer training examples than a batch has."""
    if 0 < (count := len(data.train)) < (size := run.train.batch_size):
        yield Problem("train.batch_size", size, f"is more than the {count} training examples", f"take at most {count}")


def example_problems(run: RunConfig, examples: int | None) -> Iterator[Problem]:
    """Yields a problem if the number given by the user is less than a batch."""
    if examples is not None and examples < run.train.batch_size:
        yield Problem("--examples", examples, f"is less than train.batch_size={run.train.batch_size}", "give a whole batch")
