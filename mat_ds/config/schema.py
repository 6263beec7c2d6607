"""Every option of a run, its type, its default and its meaning: the only place where a default is written.

The options of a method stand beside the method that reads them (`mat_ds/methods/`); `RunConfig` nests them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import AfterValidator, BeforeValidator, Field

from mat_ds.config.dotted import flatten
from mat_ds.config.names import Name
from mat_ds.config.paths import PathText, expanded_address
from mat_ds.config.section import MethodSettings, Section
from mat_ds.errors import Problem
from mat_ds.methods import METHODS
from mat_ds.methods.mat import MatSettings
from mat_ds.tracking.destination import absolute_uri, uri_problems

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def _tags(value: object) -> object:
    """A tag is text, whatever YAML takes `year=2026` for, and its name may have dots."""
    if not isinstance(value, dict):
        return value
    return {name: json.dumps(tag) if isinstance(tag, (int, float)) else tag for name, tag in flatten(value).items()}


class DataConfig(Section):
    path: PathText | None = Field(
        None, description="folder of `<task>/<split>.jsonl, .json, .csv, .tsv or .parquet`, a `save_to_disk` folder, or "
        "what `mat-ds prepare` wrote; null: the hub")  # fmt: skip
    max_length: Annotated[int, Field(ge=4)] = Field(512, description="tokens an input is cut at")
    shuffle: bool = Field(True, description="a new order of the training examples each epoch, fixed by the seed")
    group_by_length: bool = Field(False, description="put examples of like length into one batch (less padding)")
    bad_rows: Literal["refuse", "skip"] = Field(
        "refuse", description="what becomes of a row that is no example: refuse the whole input, or skip and count the row "
        "(never in a test split, whose predictions are numbered by its rows)")  # fmt: skip
    train_limit: Count | None = Field(None, description="use only the first N training examples")
    eval_limit: Count | None = Field(None, description="use only the first N examples of each evaluation split")


class LoraConfig(Section):
    r: Count = Field(8, description="rank of the adapters")
    alpha: Count = Field(16, description="the adapters' product is scaled by alpha / r")
    dropout: Fraction = Field(0.0, description="of the adapters' input")
    target_modules: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="linear layers that get an adapter, by the end of their names; null: PEFT's choice for the "
        "architecture, such as [query, value]")  # fmt: skip
    modules_to_save: list[str] = Field(
        [], description="modules trained as a whole besides the head and whatever the folder has no weights for")  # fmt: skip
    merge: bool = Field(False, description="`model/` holds the whole model, its adapters added to its weights, and "
                        "`model/adapter/` the adapters; false: `model/` holds the adapters alone")  # fmt: skip


class ModelConfig(Section):
    name: PathText = Field("tiny-roberta", description="hub id or folder; `tiny-roberta`: built here, from scratch")
    dropout: Fraction | None = Field(None, description="sets every dropout probability; null: the model's own")
    head_dropout: Fraction | None = Field(
        None, description="sets the dropout probability of the classification head alone; null: that of model.dropout, or "
        "the model's own")  # fmt: skip
    attention: Literal["sdpa", "eager"] | None = Field(
        None, description="kernels of attention; eager has second derivatives; null: the model's own choice")  # fmt: skip
    gradient_checkpointing: bool = Field(False, description="recompute activations in backward (non-re-entrant)")
    average: Literal["none", "ema", "uniform"] = Field(
        "none", description="running average of theta_t over outer steps, evaluated beside the raw weights: moving, or uniform "
        "as Algorithm 1 returns it")  # fmt: skip
    average_decay: Fraction = Field(0.999, description="decay of the moving average")
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters and the head, the rest frozen; any `model.lora.*` turns it on")  # fmt: skip


class OptimizerConfig(Section):
    name: Literal["sgd", "rmsprop", "adam"] = Field(
        "adam", description="preconditioner of the parameters' chain; adam is torch's AdamW, rmsprop torch's RMSprop, "
        "sgd torch's SGD without momentum")  # fmt: skip
    lr: Annotated[float, Field(ge=0.0)] = Field(1e-5, description="peak step size gamma of the parameters")
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = Field(
        (0.9, 0.999), description="decay of the two moments of adam")  # fmt: skip
    rmsprop_alpha: Fraction = Field(0.99, description="decay of the second moment of rmsprop")
    eps: Positive = Field(1e-8, description="added to the root of the second moment")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="on everything but biases and norms; decoupled in adam, torch's own form in the others")  # fmt: skip
    schedule: Literal["linear", "cosine", "constant", "polynomial"] = Field(
        "linear", description="of the step size, advanced once per outer step, after the warm-up")  # fmt: skip
    warmup_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = Field(0.1, description="share of the outer steps that warm up")
    max_grad_norm: Annotated[float, Field(ge=0.0)] = Field(0.0, description="clip the global gradient norm; 0: off")


class TrainConfig(Section):
    epochs: Annotated[float, Field(gt=0.0, le=1e6)] = Field(3.0, description="passes over the training examples")
    max_steps: Annotated[int, Field(ge=1, le=10**9)] | None = Field(None, description="outer steps (batches); wins over epochs")
    batch_size: Count = Field(32, description="examples of one outer step, over all ranks")
    micro_batch_size: Count = Field(
        8, description="examples of one forward pass on one rank; accumulation = batch_size / (this x ranks)")  # fmt: skip
    eval_micro_batch_size: Count | None = Field(None, description="the same in evaluation; null: micro_batch_size")
    eval_per_epoch: Annotated[int, Field(ge=0, le=10_000)] = Field(
        1, description="evaluations per epoch, evenly spread; the end of training is always evaluated")  # fmt: skip
    telemetry_every: Annotated[int, Field(ge=0)] = Field(
        100, description="outer steps between measurements of what the adversary does; 0: never")  # fmt: skip
    export: Literal["best", "last"] = Field("best", description="which weights go to `model/`")
    export_weights: Literal["raw", "average"] = Field(
        "raw", description="which are scored, selected and exported: the parameters or their model.average")  # fmt: skip
    save_every: Count | None = Field(None, description="outer steps between checkpoints; null: one per epoch")
    save_minutes: Positive | None = Field(30.0, description="minutes after which one is saved in any case; null: never")
    keep_last: Count = Field(2, description="checkpoints kept, beside that of the best evaluation")
    on_save_failure: Literal["stop", "continue"] = Field(
        "stop", description="training where a checkpoint or the model cannot be written, as on a full disk")  # fmt: skip
    resume: PathText = Field(
        "never", description="never; auto: continue the run of output_dir from its newest checkpoint that is whole, if it has "
        "one; or a run or checkpoint folder to continue from")  # fmt: skip
    deterministic: bool = Field(False, description="bit-identical runs on a GPU too (slower kernels)")
    timeout_minutes: Annotated[float, Field(gt=0.0, le=10080.0)] = Field(
        30.0, description="how long a rank waits for the others before the run ends; more where disks are slow")  # fmt: skip


# Pydantic warns of it: classes that can be abstract have a `register`, which nothing here calls.
warnings.filterwarnings("ignore", 'Field name "register"')


class TrackingConfig(Section):
    uri: Annotated[str, AfterValidator(expanded_address), AfterValidator(absolute_uri)] | None = Field(
        None, description="MLflow server or database that mirrors the run; `none`: no mirror; null: the SQLite file "
        "`mlflow.db` beside the run directory")  # fmt: skip
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        "mat_ds", description="MLflow experiment of the run"
    )
    run_name: Annotated[str, Field(min_length=1, max_length=250)] | None = Field(
        None, description="name of the run in MLflow; null: that of its directory")  # fmt: skip
    tags: Annotated[dict[str, str], BeforeValidator(_tags)] = Field(
        {}, description="tags of the run in MLflow: `tracking.tags.<name>=<text>`"
    )
    register: Name | None = Field(
        None, description="name under which MLflow's registry gets the model of the finished run; null: none")  # fmt: skip


if TYPE_CHECKING:
    MethodConfig = MethodSettings
else:  # a union made at run time, which no type checker can follow
    Settings = tuple(method.Settings for method in METHODS.values())
    MethodConfig = Annotated[Union[Settings], Field(discriminator="name")]  # noqa: UP007


class RunConfig(Section):
    task: PathText = Field("demo", description="a task of the registry, or a task YAML of your own")
    output_dir: PathText | None = Field(None, description="run directory; null: `runs/<task>-<method>-<time>`")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="key of every random draw of the run")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    method: MethodConfig = MatSettings()
    tracking: TrackingConfig = TrackingConfig()


def batch_problems(train: TrainConfig, world_size: int) -> Iterator[Problem]:
    """Whether `world_size` ranks can share a batch; the message names micro-batch sizes that work.

    Args:
        train: the batch sizes asked for.
        world_size: number of ranks of the run.
    """
    if train.batch_size % world_size:
        below, above = train.batch_size // world_size * world_size, -(-train.batch_size // world_size) * world_size
        working = " or ".join(str(size) for size in (below, above) if size)
        yield Problem("train.batch_size", train.batch_size, f"does not divide by the {world_size} ranks of this run",
                      f"take train.batch_size={working}")  # fmt: skip
    elif train.batch_size // world_size % train.micro_batch_size:
        share = train.batch_size // world_size
        working = ", ".join(str(size) for size in range(1, share + 1) if share % size == 0)
        yield Problem("train.micro_batch_size", train.micro_batch_size,
                      f"each of {world_size} ranks has {share} of the {train.batch_size} examples of a batch, which "
                      "does not divide by it", f"take one of {working}")  # fmt: skip


def combination_problems(run: RunConfig, world_size: int) -> Iterator[Problem]:
    """Options that are each well formed but cannot stand together."""
    yield from batch_problems(run.train, world_size)
    if run.train.export_weights == "average" and run.model.average == "none":
        yield Problem("train.export_weights", "average", "no average is kept (model.average=none)",
                      "pass model.average=ema or model.average=uniform")  # fmt: skip
    yield from run.method.problems()
    yield from uri_problems("tracking.uri", run.tracking.uri)
    if run.model.lora and run.model.name == ModelConfig().name:
        yield Problem("model.lora", f"r={run.model.lora.r}", f"{run.model.name} is built from scratch: it has no weights that "
                      "adapters could adapt", "name a pre-trained model with model.name=<folder or hub id>")  # fmt: skip
    if run.train.resume == "auto" and run.output_dir is None:
        yield Problem("train.resume", "auto", "without output_dir there is no run to look for",
                      "pass output_dir=<folder> and keep it the same when you start the job again")  # fmt: skip
    if run.optimizer.schedule == "polynomial" and 0 < run.optimizer.lr <= 1e-7:
        yield Problem("optimizer.lr", run.optimizer.lr, "the polynomial schedule ends at 1e-7, above it",
                      "take a larger optimizer.lr or optimizer.schedule=linear")  # fmt: skip
